"""What does not depend on the unit of the loss."""

import pytest

from l2o.rule.config import ScaleFreeFeaturesConfig

SCALE_FREE = (
    "default",
    "default-ff",
    "default-ng-t",
    "cells-own",
    "ng-t",
    "lstm",
    "nfn",
)


def scaled(all_grads, factor):
    return [{name: factor * grad for name, grad in step.items()} for step in all_grads]


def test_the_list_is_whole(configs):
    found = [
        name
        for name, config in configs.items()
        if isinstance(config.features, ScaleFreeFeaturesConfig)
    ]
    assert tuple(found) == SCALE_FREE


@pytest.fixture
def compare(cnn, random_grads, last_update, assert_updates_agree):
    """Compare the updates for a loss in another unit with those for the loss."""

    def check(rule, factor, tolerance):
        grads = random_grads(cnn.params)
        found = last_update(rule, cnn.graph, cnn.params, scaled(grads, factor))
        expected = last_update(rule, cnn.graph, cnn.params, grads)
        assert_updates_agree(found, expected, tolerance=tolerance)

    return check


# Adam's epsilon of 1e-8 is in the unit of the loss. It stands beside root second
# moments of about 0.1 here, and of 0.1 times the factor in the other unit; features
# multiply what it changes.
@pytest.mark.parametrize(
    ("factor", "tolerance"), [(1e3, 1e-6), (1e6, 1e-6), (1e-3, 1e-3)]
)
@pytest.mark.parametrize("name", SCALE_FREE)
def test_a_scale_free_rule_does_not_see_the_scale_of_the_loss(
    name, configs, random_rule, compare, factor, tolerance
):
    compare(random_rule(configs[name]), factor, tolerance)


@pytest.mark.parametrize(
    "name",
    [
        *("paper", "paper-ng-t", "paper-ff", "paper-lstm", "paper-nfn"),
        *("narrow-paper", "deep-ff"),
    ],
)
def test_the_law_can_fail(name, configs, random_rule, compare):
    with pytest.raises(AssertionError, match="is off by"):
        compare(random_rule(configs[name]), 1e3, 1e-3)
