"""NG-GNN against itself written edge by edge, and what enters and leaves it."""

import math
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from l2o import PRESETS, Rule, neural_graph
from l2o.graph.tiles import find_tiles
from l2o.nets import NetSizes, NGGNNConfig
from l2o.nets.gnn import NGGNNNet, message_layer
from l2o.nets.tile_states import TileStates

CONFIGS = {
    "default": NGGNNConfig(width=6),
    "shared": NGGNNConfig(width=6, directions="shared"),
    "plain": NGGNNConfig(width=6, residual=False, activation="relu"),
    "paper": replace(PRESETS["paper"].net, width=6),
}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def graph():
    """A chain of three layers and a loose vector."""
    return neural_graph(
        {
            "0.weight": torch.zeros(4, 3),
            "0.bias": torch.zeros(4),
            "1.weight": torch.zeros(5, 4, 2, 2),
            "2.weight": torch.zeros(2, 5),
            "2.bias": torch.zeros(2),
            "loose": torch.zeros(3),
        }
    )


@pytest.fixture
def tiles(graph):
    return find_tiles(graph, torch.device("cpu"), None)


State = namedtuple("State", "nodes edges")
"""Node states, and for each tile its edge states, one or one a direction."""


def random_state(config, tiles, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count = 1 if config.directions == "own" else 2
    edges = [
        [draw(*tile.shape, config.width) for _ in range(count)] for tile in tiles.edges
    ]
    return State(draw(len(tiles.degree), config.width), edges)


def take_layer(layer, tiles, state):
    """Let states that were made up pass through one layer."""
    entries = SimpleNamespace(tiles=tiles, memory_limit=None, read=print, write=print)
    count = len(state.edges[0])
    edges = TileStates(entries, print, width=6, count=count, like=state.nodes)
    own = [[edge.clone() for edge in item] for item in state.edges]
    edges.kept = {index: (0, item) for index, item in enumerate(own)}
    nodes = layer(state.nodes, edges)
    return State(nodes, [edges.get(index) for index in range(len(tiles.edges))])


def single_edges(tiles):
    """Return (tile, part, i, j), target and source of every edge."""
    return [
        ((index, part, i, j), int(target), int(source))
        for index, tile in enumerate(tiles.edges)
        for part in range(tile.shape[0])
        for i, target in enumerate(tile.target[part])
        for j, source in enumerate(tile.source[part])
    ]


def edge_by_edge(layer, tiles, state):
    """The same layer in loops over single neurons and edges."""
    along, against = 0, len(layer.scale_shift) - 1

    def message(which, edge, receiver, sender):
        scale, shift = layer.scale_shift[which](edge).chunk(2)
        ends = layer.from_receiver[which](receiver) + layer.from_sender[which](sender)
        return scale * ends + shift

    inbox = {}
    for (index, *place), target, source in single_edges(tiles):
        ends = state.nodes[target], state.nodes[source]
        forward, backward = (state.edges[index][way][tuple(place)] for way in (0, -1))
        inbox.setdefault(target, []).append(message(along, forward, *ends))
        inbox.setdefault(source, []).append(message(against, backward, *ends[::-1]))
    nodes = []
    for number, node in enumerate(state.nodes):
        if number in inbox:
            received = torch.stack(inbox[number])
            variance = received.var(0, correction=0)
            plain = torch.cat(
                [
                    received.mean(0),
                    received.min(0).values,
                    received.max(0).values,
                    (variance + 1e-5).sqrt(),
                ]
            )
            amplified = plain * math.log(len(received) + 1) / math.log(32)
            reduced = torch.cat([plain, amplified])
        else:
            reduced = torch.zeros(8 * len(node), dtype=node.dtype)
        update = layer.mix(layer.update(torch.cat([node, reduced])))
        if layer.norm is None:
            nodes.append(update)
        elif layer.residual_nodes:
            nodes.append(layer.norm(node + layer.activation(update)))
        else:
            nodes.append(layer.activation(layer.norm(update)))
    edges = [[torch.empty_like(edge) for edge in states] for states in state.edges]
    for (index, *place), target, source in single_edges(tiles):
        for direction, states in enumerate(state.edges[index]):
            ends = nodes[source], nodes[target]
            first, second = ends if direction == 0 else ends[::-1]
            old = states[tuple(place)]
            hidden = (
                layer.edge_own(old)
                + layer.edge_source(first)
                + layer.edge_target(second)
            )
            new = layer.edge_out(layer.activation(hidden))
            new = old + new if layer.residual_edges else new
            edges[index][direction][tuple(place)] = new
    return State(torch.stack(nodes), edges)


def assert_same_state(found, expected):
    tight = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found.nodes, expected.nodes, **tight)
    torch.testing.assert_close(found.edges, expected.edges, **tight)


class TestMessageLayer:
    @pytest.fixture(params=[False, True], ids=["inner", "last"])
    def layer(self, request, config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return message_layer(config, is_last=request.param).double()

    def test_it_is_what_loops_over_edges_compute(self, layer, config, tiles):
        state = random_state(config, tiles)
        with torch.no_grad():
            found = take_layer(layer, tiles, state)
            expected = edge_by_edge(layer, tiles, state)
        assert_same_state(found, expected)

    def test_the_comparison_can_fail(self, layer, config, tiles):
        state = random_state(config, tiles)
        turned = [[edge.flip(1) for edge in states] for states in state.edges]
        with torch.no_grad():
            found = take_layer(layer, tiles, state)
            expected = edge_by_edge(layer, tiles, State(state.nodes, turned))
        with pytest.raises(AssertionError):
            assert_same_state(found, expected)


def count_inputs(layer, used):
    """Return the input channels of a linear layer that receive a gradient."""
    (grad,) = torch.autograd.grad(used, layer.weight)
    return grad.abs().sum(0).nonzero().flatten().tolist()


class TestInputs:
    """The paper's padding: a kernel in the middle of 5 x 5 cells, biases too."""

    @pytest.fixture
    def rule(self):
        torch.manual_seed(0)  # with others every unit may be off
        rule = Rule(replace(PRESETS["paper"], net=CONFIGS["paper"])).double()
        assert rule.net.edge_in.in_features == 3 * 25 * 14
        assert rule.net.node_in.in_features == 25 * 14
        return rule

    def step(self, rule, model):
        generator = torch.Generator().manual_seed(0)
        params = {name: item.detach() for name, item in model.named_parameters()}
        grads = {
            name: torch.randn(item.shape, generator=generator, dtype=item.dtype)
            for name, item in params.items()
        }
        state = rule.advance(rule.init_state(params), grads)
        return rule(neural_graph(params), params, grads, state)

    def test_biases_enter_at_the_centre_cell(self, rule):
        updates = self.step(rule, nn.Linear(3, 2).double())
        used = count_inputs(rule.net.node_in, updates["bias"].sum())
        assert used == list(range(12 * 14, 13 * 14))

    def test_kernels_enter_centred(self, rule):
        updates = self.step(rule, nn.Conv2d(1, 2, 3, bias=False).double())
        used = count_inputs(rule.net.edge_in, updates["weight"].sum())
        cells = [6, 7, 8, 11, 12, 13, 16, 17, 18]
        one = [14 * cell + channel for cell in cells for channel in range(14)]
        # Along edges read the first and third copy, against them the other two.
        whole = 25 * 14
        assert used == [part * whole + index for part in range(3) for index in one]

    def test_pooled_cells_do_not_depend_on_their_order(self):
        net = NGGNNNet(
            CONFIGS["default"], NetSizes(num_features=3, num_outputs=2)
        ).double()
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(1, 2, 3, 9, 3, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(
            net.summarize(values, (3, 3)), net.summarize(values.flip(3), (3, 3))
        )

    def test_cells_with_equal_features_get_equal_updates(self, rule):
        """An edge has one state, and every entry of its kernel reads it."""
        kernel = torch.ones(2, 1, 3, 3, dtype=torch.float64)
        kernel[1] = 2.0
        params = {"weight": kernel}
        state = rule.advance(rule.init_state(params), params)
        updates = rule(neural_graph(params), params, params, state)["weight"]
        spread = (updates - updates.mean((2, 3), keepdim=True)).abs().max()
        assert spread < 1e-12 < (updates[0] - updates[1]).abs().max()


class TestCheck:
    def test_kernels_larger_than_the_rules_are_refused(self):
        rule, graph = Rule(PRESETS["paper"]), neural_graph(nn.Conv2d(1, 2, 7))
        with pytest.raises(ValueError, match=r"or one with a larger kernel"):
            rule.check(graph)

    def test_three_axes_are_too_many_for_two(self):
        rule, graph = Rule(PRESETS["paper"]), neural_graph(nn.Conv3d(1, 2, 3))
        with pytest.raises(ValueError, match=r"NGGNNConfig\(kernel=None\)"):
            rule.check(graph)

    @pytest.mark.parametrize("name", ["default", "default-ff", "paper-ff"])
    def test_others_read_every_graph(self, name):
        Rule(PRESETS[name]).check(neural_graph(nn.Conv3d(1, 2, 9)))


def test_no_weight_of_the_rule_is_idle(random_rule):
    """Every entry of theta moves some update; loose vectors and all blocks present."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3), nn.Linear(2, 2)
    ).double()
    params = {name: item.detach() for name, item in model.named_parameters()}
    for name in ("default", "paper"):
        net = replace(PRESETS[name].net, width=6, layers=2)
        rule = random_rule(replace(PRESETS[name], net=net))
        state = rule.advance(rule.init_state(params), params)
        updates = rule(neural_graph(params), params, params, state)
        total = sum(item.square().sum() for item in updates.values())
        grads = torch.autograd.grad(total, list(rule.parameters()), allow_unused=True)
        idle = [
            name
            for (name, _), grad in zip(rule.named_parameters(), grads, strict=True)
            if grad is None
        ]
        assert idle == []
