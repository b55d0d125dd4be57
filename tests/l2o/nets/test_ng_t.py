"""NG-T as a rule: what its edges start from, who sees whom, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import meta_train
from l2o import (
    PRESETS,
    NeuralGraphOpt,
    Rule,
    RuleConfig,
    load_rule,
    neural_graph,
)
from l2o.graph import (
    NeuralGraph,
    NeuronGroup,
    Neurons,
    Tie,
    View,
    WeightBlock,
)
from l2o.graph.tiles import find_tiles
from l2o.nets import NetSizes, NGGNNConfig, NGTConfig
from l2o.nets.ng_t import NGTNet
from l2o.rule_metadata import rule_path
from meta_train.config import load_config
from optimizees import MLP, ConvNet
from optimizees.transformer import GPT, BlockSizes

FEATURES = 3
SIZES = NetSizes(num_features=FEATURES, num_context=2, num_outputs=2)


@pytest.fixture
def graph():
    """Two weights on the same ends, one of them as an alias too, a tie, a loose end."""
    groups = [("in", 2, "input"), ("hidden", 3, "hidden"), ("out", 3, "output")]
    x, h, y = (Neurons(place, range(size)) for place, (_, size, _) in enumerate(groups))
    view = View.contiguous(1, 3, 2)

    def block(name, source, target, view, **settings):
        return WeightBlock(
            parameter=name, source=source, target=target, view=view, **settings
        )

    return NeuralGraph(
        shapes={"one": (3, 2), "two": (3, 2, 3, 1), "top": (3, 3)},
        groups=tuple(
            NeuronGroup(name=name, size=size, role=role) for name, size, role in groups
        ),
        blocks=(
            block("one", x, h, view),
            block("two", x, h, View.contiguous(1, 3, 2, 3, 1)),
            block("top", h, y, View.contiguous(1, 3, 3)),
            block("one", x, y, view, is_alias=True),
        ),
        node_parameters=(),
        ties=(Tie(kind="residual", source=h, target=y),),
    )


def read_noise(tile):
    generator = torch.Generator().manual_seed(tile.number)
    cells = max(1, torch.Size(tile.cells).numel())
    shape = (*tile.shape, cells, FEATURES)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kernel", [None, 3])
def test_edges_start_from_what_joins_their_ends(graph, kernel):
    """One pair after the other: what several edges add to having none is summed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NGTNet(NGTConfig(width=6, heads=2, kernel=kernel), SIZES).double()
        context = torch.randn(3, 2, dtype=torch.float64)
    tiles = find_tiles(graph, torch.device("cpu"), None)
    entries = SimpleNamespace(
        tiles=tiles, memory_limit=None, read=read_noise, write=print
    )
    extra = net.context_parts(context)[1]
    none = net.edge_mix(net.edge_in.bias)
    expected = none.expand(8, 8, -1).clone()
    ones = torch.ones(3, 1, 1, 1, FEATURES, dtype=torch.float64)
    for tile in tiles.edges:
        values = read_noise(tile) if tile.blocks else ones
        for part, i, j in torch.cartesian_prod(*map(torch.arange, tile.shape)):
            one = values[part, i, j][None, None, None]
            state = net.edge_in(net.summarize(one, tile.cells)[0, 0, 0])
            state = net.edge_mix(state + extra[tile.owner[part]])
            expected[tile.source[part, j], tile.target[part, i]] += state - none
    found = net.encode_edges(entries, extra)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    is_joined = ((found - none).abs() > 1e-6).any(-1)
    assert is_joined[:2, 2:].all()
    assert is_joined[2:5, 5:].all()
    assert is_joined.sum() == 2 * 6 + 3 * 3


def test_all_neurons_see_each_other_in_one_layer(random_rule):
    """Tensors that nothing joins; to NG-GNN, beside it, they are strangers."""
    params = {
        f"{name}.{kind}": torch.ones(shape, dtype=torch.float64)
        for name in ("a", "b")
        for kind, shape in (("weight", (3, 2)), ("bias", (3,)))
    }
    graph = neural_graph(params)
    assert graph.placed_share == 0

    def moved_by_the_other(net):
        rule = random_rule(replace(PRESETS["paper-ng-t"], net=net))
        found = []
        for size in (1.0, 2.0):
            grads = {**params, "b.bias": size * params["b.bias"]}
            state = rule.advance(rule.init_state(params), grads)
            with torch.no_grad():
                found.append(rule(graph, params, grads, state)["a.weight"])
        return float((found[0] - found[1]).abs().max() / found[0].abs().max())

    assert moved_by_the_other(NGTConfig(width=8, layers=1)) > 1e-4
    assert moved_by_the_other(NGGNNConfig(width=8, layers=3)) == 0


def test_its_layers_begin_as_torchs_own():
    net = Rule(PRESETS["paper-ng-t"]).net
    linears = [item for item in net.layers.modules() if isinstance(item, nn.Linear)]
    assert linears
    for layer in linears:
        bound = layer.in_features**-0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.bias is None or layer.bias.any()


def test_the_preset_is_the_default_with_another_network():
    """And what its recipe trains, which starts from another base."""
    preset = PRESETS["default-ng-t"]
    assert replace(preset, net=RuleConfig().net) == RuleConfig()
    configs = Path(meta_train.__file__).parent / "configs"
    trained = load_config(configs / "ng-t-families.yaml").rule
    assert replace(trained, head=preset.head) == preset
    assert trained == replace(
        load_config(configs / "ng-gnn-families.yaml").rule, net=preset.net
    )


def test_as_many_neurons_as_allowed_are_read():
    graph = neural_graph(nn.Linear(6, 4))
    net = replace(PRESETS["paper-ng-t"].net, most_neurons=10)
    Rule(replace(PRESETS["paper-ng-t"], net=net)).check(graph)


def test_more_are_refused():
    graph = neural_graph(nn.Linear(2000, 100))
    with pytest.raises(
        ValueError,
        match=r"^NGTNet needs .* 2048 neurons.* got 2100, .* 538 MiB.*most_neurons=",
    ):
        Rule(PRESETS["paper-ng-t"]).check(graph)


class TestShippedRule:
    """`rule="ng-t"`."""

    def test_it_is_of_the_preset_and_small(self):
        net = load_rule("ng-t").config.net
        assert net == PRESETS["default-ng-t"].net
        assert rule_path("ng-t").stat().st_size < 300_000

    @pytest.mark.parametrize(
        ("build", "inputs"),
        [
            (lambda: ConvNet(1, (4, 8), image_size=8), torch.randn(4, 1, 8, 8)),
            (lambda: MLP((6, 8, 8, 3)), torch.randn(4, 6)),
            (
                lambda: GPT(11, 8, BlockSizes(width=8, num_blocks=1, num_heads=2)),
                torch.arange(32).reshape(4, 8) % 11,
            ),
        ],
        ids=["cnn", "perceptron", "transformer"],
    )
    def test_it_lowers_the_loss_of_networks_of_three_kinds(self, build, inputs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build()
        graph = neural_graph(model, inputs)
        assert graph.placed_share > 0.8
        optimizer = NeuralGraphOpt(model.named_parameters(), rule="ng-t", graph=graph)
        losses = []
        for _ in range(4):
            scores = model(inputs).flatten(0, -2)
            loss = cross_entropy(scores, torch.arange(len(scores)) % 3)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]

    def test_a_network_of_too_many_neurons_is_refused_when_it_is_built(self):
        model = nn.Sequential(nn.Linear(2040, 8), nn.ReLU(), nn.Linear(8, 1))
        with pytest.raises(
            ValueError, match=r"got 2049, .* Use rule='ng-gnn' or rule='base'"
        ):
            NeuralGraphOpt(model.parameters(), rule="ng-t")
        for advised in ("ng-gnn", "base"):
            NeuralGraphOpt(model.parameters(), rule=advised)


def test_kernels_larger_than_the_rules_are_refused():
    graph = neural_graph(nn.Conv2d(1, 2, 7))
    with pytest.raises(ValueError, match="or one with a larger kernel"):
        Rule(PRESETS["paper-ng-t"]).check(graph)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"layers": 0}, "layers=0.*Choose a positive value"),
        ({"kernel": 0}, "kernel=0.*Choose a positive value"),
        ({"most_neurons": 0}, "most_neurons=0.*Choose a positive value"),
        ({"width": 7}, "NGTConfig width must be even.*Use for example 32"),
        ({"heads": 3}, "got 3 and 32.*Choose a divisor"),
    ],
)
def test_settings_that_cannot_be(settings, advice):
    with pytest.raises(ValueError, match=advice):
        NGTConfig(**settings)
