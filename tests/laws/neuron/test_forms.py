"""Matrix products and PyTorch Geometric's edge lists are two forms of one network."""

import pytest
import torch

from l2o.nets.neuron_pyg import PyGNeuronGNN
from l2o.rule.weight_exchange import WeightExchange


@pytest.fixture(scope="module")
def compare(build_rule, random_grads, last_update, assert_updates_agree):
    def check(subject):
        rule, listed = build_rule(), build_rule()
        listed.net = PyGNeuronGNN(listed.net)
        grads = random_grads(subject.params, 1)
        expected = last_update(rule, subject.graph, subject.params, grads)
        found = last_update(listed, subject.graph, subject.params, grads)
        assert_updates_agree(found, expected)

    return check


@pytest.mark.parametrize(
    "name", ["mlp", "gpt", "grouped_and_dilated", "lstm", "cifar_resnet8"]
)
def test_both_forms_agree(compare, small_named, name):
    compare(small_named(name))


@pytest.mark.slow
def test_both_forms_agree_everywhere(compare, small):
    if small.graph.num_parameters > 100_000:
        pytest.skip("the edge list takes too long")
    compare(small)


def test_the_comparison_can_fail(compare, small_named, monkeypatch):
    found = WeightExchange.matrices

    def without_signs(self):
        return [(torch.ones_like(edges), *rest) for edges, *rest in found(self)]

    monkeypatch.setattr(WeightExchange, "matrices", without_signs)
    with pytest.raises(AssertionError, match="is off by"):
        compare(small_named("mlp"))
