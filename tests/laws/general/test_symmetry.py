"""On any graph: renumbering neurons by its symmetries renumbers the updates."""

from dataclasses import replace

import pytest
import torch
from oracles import WHITENED, find_directions

from l2o.graph import (
    Symmetry,
    permute_parameters,
    random_permutations,
)


def permutations_of(graph, seed=4):
    return random_permutations(graph, torch.Generator().manual_seed(seed))


@pytest.fixture(params=["default", "pooled-shared", "ng-t", "default-ff"])
def any_rule(request, configs, random_rule):
    return random_rule(configs[request.param])


@pytest.fixture(scope="session")
def compare(random_grads, last_update, assert_updates_agree):
    """Compare the updates of a renumbered network with the renumbered updates."""

    def check(rule, general, graph=None):
        graph = general.graph if graph is None else graph
        orders = permutations_of(general.graph)
        grads = random_grads(general.params)

        def moved(tensors):
            return permute_parameters(general.graph, orders, tensors)

        found = last_update(
            rule, graph, moved(general.params), [moved(step) for step in grads]
        )
        expected = last_update(rule, graph, general.params, grads)
        assert_updates_agree(found, moved(expected))

    return check


class TestFunction:
    def test_symmetries_keep_what_the_network_computes(self, general):
        orders = permutations_of(general.graph)
        params = permute_parameters(general.graph, orders, general.params)
        moved = [n for n, item in params.items() if not item.equal(general.params[n])]
        assert moved
        torch.testing.assert_close(
            general.function(params),
            general.function(general.params),
            rtol=1e-9,
            atol=1e-9,
        )

    def test_permuting_less_does_not(self, build_general):
        general = build_general("residual")
        total = general.graph.blocks[-1].source
        graph = replace(general.graph, symmetries=(Symmetry((total,)),))
        orders = permutations_of(graph)
        params = permute_parameters(graph, orders, general.params)
        change = general.function(params) - general.function(general.params)
        assert change.abs().max() > 1e-3

    def test_permutations_are_undone_by_their_inverses(self, general):
        graph, orders = general.graph, permutations_of(general.graph)
        inverse = [order.argsort() for order in orders]
        params = permute_parameters(graph, orders, general.params)
        back = permute_parameters(graph, inverse, params)
        for name, param in general.params.items():
            assert torch.equal(back[name], param)


class TestUpdates:
    def test_renumbering_renumbers_the_updates(self, compare, any_rule, general):
        compare(any_rule, general)


def backwards(neurons):
    """Return the same neurons in the opposite order."""
    return replace(neurons, index=tuple(reversed(neurons.index)))


def crossed_ties(graph):
    first, *others = graph.ties
    return replace(
        graph, ties=(replace(first, target=backwards(first.target)), *others)
    )


def crossed_scales(graph):
    blocks = [
        replace(block, target=backwards(block.target)) if block.parts > 1 else block
        for block in graph.blocks
    ]
    return replace(graph, blocks=tuple(blocks))


def crossed_biases(graph):
    nodes = [
        replace(node, neurons=backwards(node.neurons)) for node in graph.node_parameters
    ]
    return replace(graph, node_parameters=tuple(nodes))


def crossed_aliases(graph):
    blocks = [
        replace(block, source=backwards(block.source)) if block.is_alias else block
        for block in graph.blocks
    ]
    return replace(graph, blocks=tuple(blocks))


def numbered_neurons(graph):
    """Positions of their own for neurons that have none."""
    groups = [replace(group, role="input") for group in graph.groups]
    return replace(graph, groups=tuple(groups))


class TestTheLawCanFail:
    @pytest.mark.parametrize("config", ["default", "ng-t"])
    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("residual", crossed_ties),
            ("attention", crossed_ties),
            ("gated", crossed_ties),
            ("residual", crossed_scales),
            ("grouped", crossed_scales),
            ("lstm", crossed_biases),
            ("gated", crossed_biases),
            ("attention", crossed_aliases),
            ("concatenated", numbered_neurons),
        ],
    )
    def test_a_wrong_graph_is_noticed(
        self, compare, configs, random_rule, build_general, config, name, damage
    ):
        general = build_general(name)
        rule = random_rule(configs[config])
        with pytest.raises(AssertionError, match="is off by"):
            compare(rule, general, damage(general.graph))

    def test_parts_whitened_as_one_matrix(
        self, compare, configs, random_rule, build_general, monkeypatch
    ):
        def whiten_whole(graph, grads, state, averages, group_rows):
            return {
                name: find_directions(grad, state[name]).steps[WHITENED]
                for name, grad in grads.items()
                if grad.ndim > 1
            }

        monkeypatch.setattr("l2o.rule.directions.whiten_momenta", whiten_whole)
        rule = random_rule(configs["default-ff"])
        with pytest.raises(AssertionError, match="grouped is off by"):
            compare(rule, build_general("grouped"))
