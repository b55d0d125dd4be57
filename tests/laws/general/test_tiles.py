"""Blocks are put together or cut into tiles, and nothing but memory changes."""

from itertools import product
from math import prod

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph import tiles as tiles_module
from l2o.graph.tiles import find_tiles
from l2o.nets import gnn, message_layer
from l2o.nets.tile_states import TileStates
from l2o.rule import rule as rule_module

CPU = torch.device("cpu")
WHOLE = slice(None)


@pytest.fixture
def deep():
    """Eight alike layers with biases, and a graph that is fresh for every test."""
    layers = [nn.Linear(5, 5).double() for _ in range(8)]
    params = {n: p.detach() for n, p in nn.Sequential(*layers).named_parameters()}
    return neural_graph(params), params


def first_numbers(graph):
    """Return the running number of each group's first neuron, and that of all."""
    first = [0]
    for group in graph.groups:
        first.append(first[-1] + group.size)
    return first


def test_degrees_count_edges_and_ties(general):
    graph, first = general.graph, first_numbers(general.graph)
    counts = [0] * first[-1]
    for block in graph.blocks:
        _, targets, sources = block.view.shape[:3]
        for number in block.target.index:
            counts[first[block.target.group] + number] += sources
        for number in block.source.index:
            counts[first[block.source.group] + number] += targets
    for tie in graph.ties:
        for end in (tie.source, tie.target):
            for number in end.index:
                counts[first[end.group] + number] += 1
    assert find_tiles(graph, CPU, None).degree.tolist() == counts


def edges_of(tiles):
    """Return source, target and owner of every edge, sorted."""
    return sorted(
        (int(source), int(target), int(owner))
        for tile in tiles.edges
        for part, owner in enumerate(tile.owner)
        for target, source in product(tile.target[part], tile.source[part])
    )


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_tiles_hold_every_edge_once(general, cut):
    whole = find_tiles(general.graph, CPU, None)
    pieces = find_tiles(general.graph, CPU, cut)
    assert len(pieces.edges) > len(whole.edges)
    assert edges_of(pieces) == edges_of(whole)
    for tile in pieces.edges:
        if not (tile.is_whole or len(tile.blocks) > 1):
            one_edge = prod(tile.cells)
            assert prod(tile.shape) * one_edge <= max(cut, one_edge)
    rows = [
        sorted(zip(torch.cat([t.neurons for t in tiles.nodes]).tolist()))
        for tiles in (pieces, whole)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("limit", [0, 60, 10**6])
def test_small_blocks_are_put_together_up_to_a_limit(deep, monkeypatch, limit):
    monkeypatch.setattr(tiles_module, "PACKED_ENTRIES", limit)
    tiles = find_tiles(deep[0], CPU, None)
    sizes = [len(tile.blocks) for tile in tiles.edges]
    assert sizes == {0: [1] * 8, 60: [2] * 4, 10**6: [8]}[limit]
    assert sorted(i for tile in tiles.edges for i in tile.blocks) == list(range(8))


@pytest.fixture(scope="module")
def updates(random_rule, random_grads):
    """Return a rule's updates after some steps, under a memory limit."""

    def take(config, graph, params, *, limit=None, dtype=torch.float64, grad=False):
        rule = random_rule(config, dtype=dtype)
        rule.memory_limit = limit
        params = {name: item.to(dtype) for name, item in params.items()}
        state = rule.init_state(params)
        for grads in random_grads(params):
            state = rule.advance(state, grads)
        with torch.set_grad_enabled(grad):
            found = rule(graph, params, grads, state)
        return {name: item.detach() for name, item in found.items()}

    return take


GRAPH_RULES = ["default", "pooled-shared"]


class TestTogether:
    @pytest.mark.parametrize("name", [*GRAPH_RULES, "narrow-paper", "ng-t", "lstm"])
    def test_it_is_as_one_by_one(
        self, deep, configs, updates, assert_updates_agree, monkeypatch, name
    ):
        graph, params = deep
        together = updates(configs[name], graph, params)
        monkeypatch.setattr(tiles_module, "PACKED_ENTRIES", 0)
        alone = updates(configs[name], neural_graph(params), params)
        assert_updates_agree(together, alone, tolerance=1e-12)


class TestCut:
    """What a step computes in pieces is what autograd computes whole."""

    LIMITS = {1: 0, 7: 3000, 13: None}  # noqa: RUF012
    """Bytes for states, one choice for each size of a tile."""

    @pytest.fixture(params=LIMITS)
    def small_tiles(self, request, monkeypatch):
        """Cut tiles to a few entries; return a limit for states."""
        monkeypatch.setattr(rule_module, "TILE_ENTRIES", request.param)
        return self.LIMITS[request.param]

    @pytest.mark.parametrize("name", [*GRAPH_RULES, "default-ff", "ng-t", "lstm"])
    def test_nothing_changes(
        self, small_tiles, general, configs, updates, assert_updates_agree, name
    ):
        graph, params = general.graph, general.params
        found = updates(configs[name], graph, params, limit=small_tiles)
        expected = updates(configs[name], graph, params, grad=True)
        assert_updates_agree(found, expected, tolerance=1e-12)

    @pytest.mark.parametrize("name", ["narrow-paper", "cells-own", "nfn"])
    def test_nor_on_chains(
        self, small_tiles, network, configs, updates, assert_updates_agree, name
    ):
        graph, params = network.graph, network.params
        found = updates(configs[name], graph, params, limit=0)
        expected = updates(configs[name], graph, params, grad=True)
        assert_updates_agree(found, expected, tolerance=1e-12)

    def test_nor_in_single_precision(
        self, small_tiles, general, configs, updates, assert_updates_agree
    ):
        graph, params, dtype = general.graph, general.params, torch.float32
        config = configs["default"]
        found = updates(config, graph, params, limit=0, dtype=dtype)
        expected = updates(config, graph, params, grad=True, dtype=dtype)
        assert_updates_agree(found, expected, tolerance=1e-5)

    def test_the_law_can_fail(
        self, small_tiles, build_general, configs, updates, monkeypatch
    ):
        """A last message that replaces the ones before it."""

        class Forgetful(message_layer.Inbox):
            def take(self, neurons, sums, lows):
                super().take(neurons, sums, lows)
                if not self.is_pure:
                    self.sums[0][neurons.flatten()] = sums.flatten(0, 1)

        general = build_general("residual")
        arguments = configs["default"], general.graph, general.params
        expected = updates(*arguments, grad=True)
        monkeypatch.setattr(message_layer, "Inbox", Forgetful)
        found = updates(*arguments, limit=0)
        worst = max(
            float((found[name] - item).abs().max() / item.abs().max())
            for name, item in expected.items()
        )
        assert worst > 1e-3


def test_states_beyond_the_limit_are_not_kept(build_general, configs, monkeypatch):
    """With no room for states, every layer computes them from the features."""
    counts = []

    class Counted(TileStates):
        def __init__(self, entries, first, **sizes):
            def counted(tile):
                counts.append(tile)
                return first(tile)

            super().__init__(entries, counted, **sizes)

    monkeypatch.setattr(gnn, "TileStates", Counted)
    general = build_general("residual")
    rule = rule_module.Rule(configs["default"]).double()
    state = rule.advance(rule.init_state(general.params), general.params)
    for limit, times in ((None, 1), (0, rule.config.net.layers)):
        rule.memory_limit = limit
        with torch.no_grad():
            rule(general.graph, general.params, general.params, state)
        owned = [tile for tile in counts if tile.is_owned]
        ties = [tile for tile in counts if not tile.is_owned]
        assert len(ties) == times
        assert len(owned) == len(set(map(id, owned))) * (times + (limit == 0))
        counts.clear()
