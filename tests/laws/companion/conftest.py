"""Trained networks that are made up, and networks that read them, all in float64."""

import random
from itertools import pairwise

import pytest
import torch

from l2o.companion import (
    CompanionConfig,
    InputsConfig,
    NetworkClassifier,
    NGGNNBackboneConfig,
    NGTBackboneConfig,
    ReadoutConfig,
    layered_graph,
)
from l2o.graph import permute_parameters, random_permutations
from l2o.nets.transformer import RelationalConfig

ACTIVATIONS = ("none", "relu", "tanh", "sin")

BACKBONES = {
    "ng_gnn": NGGNNBackboneConfig(width=8, layers=3),
    "ng_gnn residual": NGGNNBackboneConfig(width=8, layers=3, residual=True),
    "ng_t": NGTBackboneConfig(
        layers=2,
        layer=RelationalConfig(
            node_width=8,
            edge_width=6,
            attention_width=12,
            node_hidden=10,
            edge_hidden=7,
            heads=3,
        ),
    ),
    "ng_t single width": NGTBackboneConfig(
        layers=2,
        layer=RelationalConfig(
            node_width=8,
            edge_width=8,
            attention_width=8,
            node_hidden=16,
            edge_hidden=16,
            heads=2,
            scale="head",
            out_projection=False,
            edge_means=True,
        ),
    ),
}

INPUTS = {
    "plain": {"fourier_scale": None},
    "waves": {"num_frequencies": 16},
    "both ways": {"num_frequencies": 16, "reversed_edges": True},
    "linear apart": {"fourier_scale": None, "linear_as_conv": False},
}

CASES = {
    "plain-1": (1, INPUTS["plain"]),
    "both ways-1": (1, INPUTS["both ways"]),
    "waves-2": (2, INPUTS["waves"]),
    "linear apart-2": (2, INPUTS["linear apart"]),
    "both ways-3": (3, INPUTS["both ways"]),
}
"""Number of inputs of an MLP, and how it is read."""


def randomise(model, seed=0):
    """Make every weight random, of a size that no signal vanishes in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in [*model.parameters(), *model.buffers()]:
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            fan_in = weight.shape[1] if weight.ndim > 1 else 1
            is_flat = weight.ndim <= 1
            weight.copy_(noise.abs() + 0.5 if is_flat else noise / fan_in**0.5)
    return model.double().eval()


def evaluate_mlp(graph, params, points):
    """Run stacked MLPs of sines on shared points: the values of every group."""
    layers = list(zip(*[iter(params.values())] * 2, strict=True))
    count = len(layers[0][0])
    values = [points.expand(count, *points.shape)]
    for depth, (weight, bias) in enumerate(layers, start=1):
        sums = values[-1] @ weight.transpose(1, 2) + bias[:, None]
        values.append(sums if depth == len(layers) else torch.sin(sums))
    return values


def mlp_graph(*sizes):
    shapes = {}
    for layer, (source, target) in enumerate(pairwise(sizes)):
        shapes |= {f"{layer}.weight": (target, source), f"{layer}.bias": (target,)}
    return layered_graph(shapes, activations=("sin",) * (len(sizes) - 2))


def park_graph(seed):
    """A CNN of the wild park: any depth, widths, kernels, activations and skips."""
    draw, shapes, width = random.Random(seed), {}, 3
    activations, skips = [], []
    for layer in range(draw.randint(2, 4)):
        channels = draw.choice((2, 4, 5))
        kernel = draw.choice(((3, 3), (1, 3), (5, 3), (5, 1)))
        shapes[f"{layer}.weight"] = channels, width, *kernel
        shapes[f"{layer}.bias"] = (channels,)
        width = channels
        activations.append(draw.choice(("relu", "tanh", "identity")))
        skips.append(draw.choice([None, *range(layer - 1)]))
    shapes |= {"head.weight": (4, width), "head.bias": (4,)}
    return layered_graph(shapes, activations=activations, skips=skips)


def random_params(graph, *lead, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)
        for name, shape in graph.shapes.items()
    }


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return BACKBONES[request.param]


@pytest.fixture
def ng_gnn():
    return BACKBONES["ng_gnn"]


@pytest.fixture(params=INPUTS)
def switches(request):
    return INPUTS[request.param]


@pytest.fixture(params=CASES)
def case(request):
    """Number of inputs, and switches."""
    return CASES[request.param]


@pytest.fixture
def build():
    """Build a model of a kind with random weights."""

    def make(kind, backbone, *, evaluate=None, pooling="outputs", **inputs):
        config = CompanionConfig(
            inputs=InputsConfig(**inputs),
            backbone=backbone,
            readout=ReadoutConfig(width=8, layers=1, pooling=pooling),
        )
        torch.manual_seed(0)
        if kind is NetworkClassifier:
            return randomise(kind(config, num_classes=3, evaluate=evaluate))
        return randomise(kind(config, evaluate=evaluate))

    return make


@pytest.fixture
def evaluate():
    """How to run MLPs of sines on probes."""
    return evaluate_mlp


@pytest.fixture
def mlps():
    """Four MLPs of one architecture with so many inputs, and what reads them."""

    def make(inputs):
        graph = mlp_graph(inputs, 5, 4, 3)
        sizes = {"num_inputs": inputs, "num_hidden": 2, "num_outputs": 3}
        return graph, random_params(graph, 4), sizes

    return make


@pytest.fixture
def park():
    """CNNs of the park, whose architectures all differ, and what reads them."""
    graphs = [park_graph(seed) for seed in range(6)]
    assert len({id(graph) for graph in graphs}) == 6
    assert any(graph.ties for graph in graphs)
    params = [random_params(graph, seed=seed) for seed, graph in enumerate(graphs)]
    sizes = {"num_inputs": 3, "num_hidden": 4, "num_outputs": 4, "kernel": (5, 3)}
    return graphs, params, {**sizes, "activations": ACTIVATIONS}


@pytest.fixture
def permuted():
    """Renumber neurons of each of some stacked networks, the hidden ones by default."""

    def permute(graph, params, orders=None):
        if orders is None:
            orders = random_permutations(graph, torch.Generator().manual_seed(1))
            moved = [(order.diff() != 1).any() for order in orders]
            assert any(moved), "a law about permutations needs one"
        count = len(next(iter(params.values())))
        found = [
            permute_parameters(
                graph, orders, {name: value[index] for name, value in params.items()}
            )
            for index in range(count)
        ]
        return {name: torch.stack([own[name] for own in found]) for name in params}

    return permute


@pytest.fixture
def gap():
    """Return how far two answers are apart, in units of their spread."""

    def measure(found, expected):
        found, expected = found.detach(), expected.detach()
        spread = float((expected - expected.mean(0)).abs().max())
        assert 0 < spread < float("inf"), "answers that are all alike show nothing"
        return float((found - expected).abs().max()) / spread

    return measure
