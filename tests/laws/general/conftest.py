"""Networks that are no chain, each with its graph written by hand."""

from collections import namedtuple

import pytest
import torch
from torch.nn import functional as F

from l2o.graph import (
    NeuralGraph,
    NeuronGroup,
    Neurons,
    NodeParameter,
    Symmetry,
    Tie,
    View,
    WeightBlock,
)

General = namedtuple("General", "graph params function")
"""A graph, parameters for it, and what a network with such parameters computes."""


class Sketch:
    """A graph, and parameters for it, under construction. Groups go by their names."""

    def __init__(self, **groups):
        self.names = list(groups)
        self.groups = [
            NeuronGroup(name=name, size=size, role=role, depth=index / len(groups))
            for index, (name, (size, role)) in enumerate(groups.items())
        ]
        self.shapes, self.blocks, self.nodes = {}, [], []
        self.ties, self.symmetries = [], []

    def some(self, name):
        """Return all neurons of a group, or those of ("group", index)."""
        name, index = name if isinstance(name, tuple) else (name, None)
        group = self.names.index(name)
        return Neurons(
            group, range(self.groups[group].size) if index is None else index
        )

    def weight(self, name, shape, source, target, view=None, *, is_alias=False):
        source, target = self.some(source), self.some(target)
        self.shapes[name] = shape
        if view is None:
            view = View.contiguous(1, len(target), len(source), *shape[2:])
        self.blocks.append(
            WeightBlock(
                parameter=name,
                source=source,
                target=target,
                view=view,
                is_alias=is_alias,
            )
        )

    def bias(self, name, shape, neurons, view=None):
        neurons = self.some(neurons)
        self.shapes[name] = shape
        view = View.contiguous(len(neurons)) if view is None else view
        self.nodes.append(NodeParameter(parameter=name, neurons=neurons, view=view))

    def tie(self, kind, source, target):
        source, target = self.some(source), self.some(target)
        self.ties.append(Tie(kind=kind, source=source, target=target))

    def alike(self, *members):
        """Note that these selections may be permuted together."""
        self.symmetries.append(Symmetry(tuple(map(self.some, members))))

    def finish(self, function):
        generator = torch.Generator().manual_seed(3)
        params = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in self.shapes.items()
        }
        graph = NeuralGraph(
            shapes=self.shapes,
            groups=tuple(self.groups),
            blocks=tuple(self.blocks),
            node_parameters=tuple(self.nodes),
            ties=tuple(self.ties),
            symmetries=tuple(self.symmetries),
        )
        return General(graph, params, function)


def inputs(*shape):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def residual():
    """Two blocks with layer norms on one stream."""
    sketch = Sketch(
        x=(3, "input"),
        stream=(6, "hidden"),
        normed=(6, "hidden"),
        wide=(5, "hidden"),
        branch=(6, "hidden"),
        total=(6, "hidden"),
        y=(2, "output"),
    )
    sketch.weight("in", (6, 3), "x", "stream")
    sketch.bias("in bias", (6,), "stream")
    sketch.weight("scale", (6,), "stream", "normed", View.contiguous(6, 1, 1))
    sketch.bias("shift", (6,), "normed")
    sketch.weight("up", (5, 6), "normed", "wide")
    sketch.bias("up bias", (5,), "wide")
    sketch.weight("down", (6, 5), "wide", "branch")
    sketch.bias("down bias", (6,), "branch")
    sketch.tie("residual", "stream", "total")
    sketch.tie("residual", "branch", "total")
    sketch.weight("out", (2, 6), "total", "y")
    sketch.alike("stream", "normed", "branch", "total")
    sketch.alike("wide")

    def function(p):
        stream = F.linear(inputs(4, 3), p["in"], p["in bias"])
        normed = F.layer_norm(stream, (6,), p["scale"], p["shift"])
        wide = F.linear(normed, p["up"], p["up bias"]).tanh()
        return (stream + F.linear(wide, p["down"], p["down bias"])) @ p["out"].T

    return sketch.finish(function)


def grouped():
    """A grouped convolution, a depthwise one and a transposed one."""
    sketch = Sketch(
        x=(2, "input"),
        a=(4, "hidden"),
        c=(6, "hidden"),
        d=(6, "hidden"),
        y=(3, "output"),
    )
    sketch.weight("in", (4, 2, 3), "x", "a")
    sketch.weight("grouped", (6, 2, 3), "a", "c", View.contiguous(2, 3, 2, 3))
    sketch.bias("grouped bias", (6,), "c")
    sketch.weight("depthwise", (6, 1, 3), "c", "d", View.contiguous(6, 1, 1, 3))
    transposed = View((1, 3, 6, 2), (0, 2, 6, 1))
    sketch.weight("transposed", (6, 3, 2), "d", "y", transposed)
    for part in (0, 1):
        sketch.alike(("a", range(2 * part, 2 * part + 2)))
        ends = range(3 * part, 3 * part + 3)
        sketch.alike(("c", ends), ("d", ends))
    # The two parts may also change places, whole.
    sketch.alike(
        *(("a", (i, i + 2)) for i in range(2)),
        *((name, (i, i + 3)) for name in "cd" for i in range(3)),
    )

    def function(p):
        a = F.conv1d(inputs(4, 2, 9), p["in"]).tanh()
        c = F.conv1d(a, p["grouped"], p["grouped bias"], groups=2).tanh()
        d = F.conv1d(c, p["depthwise"], groups=6).tanh()
        return F.conv_transpose1d(d, p["transposed"])

    return sketch.finish(function)


def attention():
    """Two heads with packed projections, positions, and a tied embedding."""
    sketch = Sketch(
        tokens=(7, "input"),
        stream=(6, "hidden"),
        queries=(6, "hidden"),
        keys=(6, "hidden"),
        values=(6, "hidden"),
        branch=(6, "hidden"),
        total=(6, "hidden"),
        logits=(7, "output"),
    )
    sketch.weight("embed", (7, 6), "tokens", "stream", View((1, 6, 7), (0, 1, 6)))
    sketch.bias("positions", (5, 6), "stream", View((6, 5), (1, 6)))
    for index, name in enumerate(("queries", "keys", "values")):
        view = View((1, 6, 6), (0, 6, 1), 36 * index)
        sketch.weight("packed", (18, 6), "stream", name, view)
        sketch.bias("packed bias", (18,), name, View((6,), (1,), 6 * index))
    sketch.tie("dot", "queries", "keys")
    sketch.weight("project", (6, 6), "values", "branch")
    sketch.tie("residual", "stream", "total")
    sketch.tie("residual", "branch", "total")
    sketch.weight("embed", (7, 6), "total", "logits", is_alias=True)
    sketch.alike("stream", "branch", "total")
    for head in (range(3), range(3, 6)):
        sketch.alike(("queries", head), ("keys", head))
        sketch.alike(("values", head))
    sketch.alike(
        *(
            (name, (i, i + 3))
            for name in ("queries", "keys", "values")
            for i in range(3)
        )
    )

    def function(p):
        stream = p["embed"][torch.tensor([2, 0, 6, 3, 3])] + p["positions"]
        packed = F.linear(stream, p["packed"], p["packed bias"])
        queries, keys, values = (
            item.unflatten(1, (2, 3)).transpose(0, 1) for item in packed.chunk(3, 1)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        total = stream + mixed.transpose(0, 1).flatten(1) @ p["project"].T
        return total @ p["embed"].T

    return sketch.finish(function)


def lstm():
    """A recurrent cell, its four gates as cells of one edge."""
    sketch = Sketch(x=(3, "input"), state=(5, "hidden"), y=(2, "output"))
    gates = View((1, 5, 3, 4), (0, 3, 1, 15))
    sketch.weight("input", (20, 3), "x", "state", gates)
    gates = View((1, 5, 5, 4), (0, 5, 1, 25))
    sketch.weight("hidden", (20, 5), "state", "state", gates)
    sketch.bias("input bias", (20,), "state", View((5, 4), (1, 5)))
    sketch.bias("hidden bias", (20,), "state", View((5, 4), (1, 5)))
    sketch.weight("out", (2, 5), "state", "y")
    sketch.alike("state")

    def function(p):
        cell = state = torch.zeros(4, 5, dtype=torch.float64)
        for x in inputs(3, 4, 3):
            gates = F.linear(x, p["input"], p["input bias"])
            gates = gates + F.linear(state, p["hidden"], p["hidden bias"])
            enter, keep, new, leave = gates.chunk(4, 1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
            state = leave.sigmoid() * cell.tanh()
        return state @ p["out"].T

    return sketch.finish(function)


def concatenated():
    """A layer that reads two others, and a flattened head."""
    sketch = Sketch(
        x=(1, "input"),
        a=(4, "hidden"),
        b=(3, "hidden"),
        c=(2, "hidden"),
        y=(2, "output"),
    )
    sketch.weight("first", (4, 1, 3, 3), "x", "a")
    sketch.weight("second", (3, 4, 1, 1), "a", "b")
    views = [
        View((1, 2, size, 2, 2), (0, 28, 4, 2, 1), offset)
        for size, offset in ((4, 0), (3, 16))
    ]
    sketch.weight("joined", (2, 7, 2, 2), "a", "c", views[0])
    sketch.weight("joined", (2, 7, 2, 2), "b", "c", views[1])
    sketch.bias("joined bias", (2,), "c")
    sketch.weight("head", (2, 18), "c", "y", View.contiguous(1, 2, 2, 9))
    for name in "abc":
        sketch.alike(name)

    def function(p):
        a = F.conv2d(inputs(3, 1, 6, 6), p["first"]).tanh()
        b = F.conv2d(a, p["second"]).tanh()
        c = F.conv2d(torch.cat([a, b], 1), p["joined"], p["joined bias"]).tanh()
        return c.flatten(1) @ p["head"].T

    return sketch.finish(function)


def gated():
    """Two inputs that gate each other, and a class token beside them."""
    sketch = Sketch(
        first=(3, "input"),
        second=(2, "input"),
        u=(5, "hidden"),
        v=(5, "hidden"),
        product=(5, "hidden"),
        moved=(5, "hidden"),
        y=(2, "output"),
    )
    sketch.weight("u", (5, 3), "first", "u")
    sketch.weight("v", (5, 2), "second", "v")
    sketch.bias("u bias", (5,), "u")
    sketch.tie("gate", "u", "product")
    sketch.tie("gate", "v", "product")
    sketch.tie("move", "product", "moved")
    sketch.bias("token", (1, 1, 5), "moved")
    sketch.bias("positions", (1, 3, 5), "moved", View((5, 3), (1, 5)))
    sketch.weight("out", (2, 5), "moved", "y")
    sketch.alike("u", "v", "product", "moved")

    def function(p):
        u = F.linear(inputs(4, 2, 3), p["u"], p["u bias"])
        product = u * (inputs(4, 2, 2) @ p["v"].T)
        moved = torch.cat([p["token"].expand(4, 1, 5), product], 1) + p["positions"]
        return moved.tanh().sum(1) @ p["out"].T

    return sketch.finish(function)


GENERAL = {
    build.__name__: build
    for build in (residual, grouped, attention, lstm, concatenated, gated)
}


@pytest.fixture(params=GENERAL, scope="session")
def general(request):
    """Every network that is no chain."""
    return GENERAL[request.param]()


@pytest.fixture(scope="session")
def build_general():
    """Build one of them by its name."""
    return lambda name: GENERAL[name]()


@pytest.fixture(scope="session")
def sketch():
    """The means to write a graph by hand."""
    return Sketch
