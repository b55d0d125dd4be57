"""What a head's updates are multiples of changes nothing else of a rule."""

from dataclasses import replace

import pytest

from l2o.graph.linear_maps import fan_ins
from l2o.rule.config import NominalHeadConfig

FEW = NominalHeadConfig(unit="fan_in", full_fan_in=2.0)
NAMES = ("default", "pooled-shared", "ng-t")


@pytest.fixture
def both(configs, cnn, random_rule, random_grads, last_update):
    """Return the updates of one theta with units, and without."""

    def find(name):
        grads = random_grads(cnn.params, steps=1)  # later ones see other weights
        heads = FEW, NominalHeadConfig(unit="one")
        return [
            last_update(
                random_rule(replace(configs[name], head=head)),
                cnn.graph,
                cnn.params,
                grads,
            )
            for head in heads
        ]

    return find


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_scaled_and_others_are_not(name, cnn, both, assert_updates_agree):
    found, plain = both(name)
    counts = fan_ins(cnn.graph)
    assert counts
    assert max(counts.values()) > 2
    expected = {
        key: item * min(1.0, (2 / counts.get(key, 1)) ** 0.5)
        for key, item in plain.items()
    }
    assert_updates_agree(found, expected)


def test_the_law_can_fail(cnn, both, assert_updates_agree):
    found, plain = both("default")
    with pytest.raises(AssertionError, match="is off by"):
        assert_updates_agree(found, plain)
