"""The faults of the released read-outs are there when asked for, and no others."""

from dataclasses import replace

import pytest
import torch

from l2o.graph import permute_parameters, random_permutations


@pytest.fixture
def errors(network, random_rule, random_grads, last_update):
    """Return how far each update is from following its neurons."""

    def measure(config):
        graph, params = network.graph, network.params
        orders = random_permutations(graph, torch.Generator().manual_seed(2))

        def moved(tensors):
            return permute_parameters(graph, orders, tensors)

        # One step: in later ones the weights read biases that went astray.
        rule, grads = random_rule(config), random_grads(params, steps=1)
        expected = moved(last_update(rule, graph, params, grads))
        all_moved = [moved(step) for step in grads]
        found = last_update(rule, graph, moved(params), all_moved)
        return {
            name: float((found[name] - item).abs().max() / item.abs().max())
            for name, item in expected.items()
        }

    return measure


@pytest.fixture
def worst_with_fault(configs, errors):
    """Return the largest error of weights and of biases; without the fault, none."""

    def measure(name):
        config = configs[name]
        assert max(errors(config).values()) < 1e-9
        found = errors(replace(config, net=replace(config.net, readout="released")))
        return [
            max(error for key, error in found.items() if key.endswith(kind))
            for kind in ("weight", "bias")
        ]

    return measure


@pytest.mark.parametrize("name", ["default", "narrow-paper"])
def test_biases_do_not_follow_their_neurons_but_weights_do(worst_with_fault, name):
    weights, biases = worst_with_fault(name)
    assert weights < 1e-9
    assert biases > 1e-3


@pytest.mark.parametrize("name", ["ng-t", "paper-ng-t"])
def test_behind_a_token_neither_do(worst_with_fault, name):
    assert min(worst_with_fault(name)) > 1e-3
