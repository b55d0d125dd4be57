"""The neuron-level rule sees neurons, not their numbers, on every graph."""

import pytest
import torch

from l2o.graph import permute_parameters, random_permutations
from l2o.rule.neuron_rule import NeuronRule


class IndexedRule(NeuronRule):
    """Broken on purpose: the first row of every tensor moves a little further."""

    def forward(self, graph, params, grads, state):
        updates = super().forward(graph, params, grads, state)
        return {
            name: torch.cat([1.01 * update[:1], update[1:]])
            for name, update in updates.items()
        }


@pytest.fixture(scope="module")
def assert_equivariant(random_grads, last_update, assert_updates_agree):
    def check(rule, subject):
        graph = subject.graph
        orders = random_permutations(graph, torch.Generator().manual_seed(1))

        def moved(tensors):
            return permute_parameters(graph, orders, tensors)

        grads = random_grads(subject.params, 2)
        expected = moved(last_update(rule, graph, subject.params, grads))
        grads = [moved(step) for step in grads]
        found = last_update(rule, graph, moved(subject.params), grads)
        assert_updates_agree(found, expected, tolerance=1e-8)

    return check


def test_renumbering_renumbers_the_updates(assert_equivariant, build_rule, small):
    assert_equivariant(build_rule(), small)


def test_the_law_can_fail(assert_equivariant, build_rule, small_named):
    with pytest.raises(AssertionError, match="is off by"):
        assert_equivariant(build_rule(kind=IndexedRule), small_named("mlp"))
