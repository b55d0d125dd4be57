"""Every entry of every parameter has one place in the blocks, and keeps it."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph import (
    Blocks,
    NeuralGraph,
    NeuronGroup,
    Neurons,
    NodeParameter,
    View,
    WeightBlock,
    from_blocks,
    to_blocks,
)

MODELS = {
    "linear": lambda: nn.Linear(3, 2),
    "mlp": lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False)),
    "pooled": lambda: nn.Sequential(nn.Conv2d(3, 4, (3, 5)), nn.Linear(4, 2)),
    "flattened": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4 * 6, 2)),
    "one axis": lambda: nn.Sequential(nn.Conv1d(2, 3, 5), nn.Conv1d(3, 2, 1)),
    "three axes": lambda: nn.Conv3d(2, 3, (1, 2, 3)),
    "norms": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
    ),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "loose": lambda: nn.ParameterList(
        [torch.zeros(()), torch.zeros(3), torch.zeros(2, 3), torch.zeros(3)]
    ),
}


def places(view):
    """Return the number of every entry of a view, by the definition of `View`."""
    found = [view.offset]
    for length, stride in zip(view.shape, view.strides, strict=True):
        found = [start + stride * i for start in found for i in range(length)]
    return found


def count_places(graph):
    """Return how often each entry of each parameter is placed."""
    counts = Counter()
    owners = [block for block in graph.blocks if not block.is_alias]
    for item in (*owners, *graph.node_parameters):
        counts.update((item.parameter, place) for place in places(item.view))
    return counts


def assert_placed_once(graph):
    every = [(n, i) for n, s in graph.shapes.items() for i in range(math.prod(s))]
    assert count_places(graph) == Counter(every)


def numbered(graph, features=()):
    """Return tensors in which every number stands once."""
    return {
        name: torch.arange(math.prod((*shape, *features))).reshape((*shape, *features))
        for name, shape in graph.shapes.items()
    }


def assert_round_trip(graph, tensors):
    found = from_blocks(graph, to_blocks(graph, tensors))
    for name, tensor in tensors.items():
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name


def assert_laid_by_definition(graph):
    laid = to_blocks(graph, numbered(graph))
    for block, values in zip(graph.blocks, laid.edges, strict=True):
        assert values.shape == (*block.view.shape[:3], block.num_cells)
        assert values.flatten().tolist() == places(block.view)
    for node, values in zip(graph.node_parameters, laid.nodes, strict=True):
        assert values.shape == (len(node.neurons), node.num_cells)
        assert values.flatten().tolist() == places(node.view)


def block_of(view, name="weight", start=0):
    parts, targets, sources = view.shape[:3]
    return WeightBlock(
        parameter=name,
        source=Neurons(0, range(parts * sources)),
        target=Neurons(1, range(start, start + parts * targets)),
        view=view,
    )


def graph_of(shape, *views):
    """Return a graph of one parameter, cut into these views."""
    groups = [
        NeuronGroup(name=name, size=99, role="hidden") for name in ("source", "target")
    ]
    return NeuralGraph(
        shapes={"weight": shape},
        groups=tuple(groups),
        blocks=tuple(block_of(view) for view in views if len(view.shape) > 2),
        node_parameters=tuple(
            NodeParameter(
                parameter="weight", neurons=Neurons(0, range(view.shape[0])), view=view
            )
            for view in views
            if len(view.shape) <= 2
        ),
    )


def packed(draw):
    """Queries, keys and values below one another."""
    width, inputs = draw(1, 6), draw(1, 6)
    views = [
        View((1, width, inputs), (0, inputs, 1), width * inputs * i) for i in range(3)
    ]
    return graph_of((3 * width, inputs), *views)


def interleaved(draw):
    """Queries, keys and values in turn, one block a head."""
    heads, width, inputs = draw(1, 4), draw(1, 4), draw(1, 5)
    step = width * inputs
    views = [
        View((1, width, inputs), (0, inputs, 1), step * i) for i in range(3 * heads)
    ]
    return graph_of((3 * heads * width, inputs), *views)


def gates(draw):
    """The four gates of a recurrent cell as the cells of an edge."""
    width, inputs = draw(1, 6), draw(1, 6)
    view = View((1, width, inputs, 4), (0, inputs, 1, width * inputs))
    return graph_of((4 * width, inputs), view)


def transposed(draw):
    """A transposed convolution, in groups: [inputs, outputs a group, *kernel]."""
    parts, sources, targets, kernel = draw(1, 3), draw(1, 4), draw(1, 4), draw(1, 3)
    view = View(
        (parts, targets, sources, kernel, 2),
        (sources * targets * kernel * 2, kernel * 2, targets * kernel * 2, 2, 1),
    )
    return graph_of((parts * sources, targets, kernel, 2), view)


def depthwise(draw):
    """One part a neuron."""
    width, kernel = draw(1, 8), draw(1, 4)
    return graph_of((width, 1, kernel), View.contiguous(width, 1, 1, kernel))


def concatenated(draw):
    """A convolution that reads several groups, one block each."""
    targets, kernel = draw(1, 5), draw(1, 3)
    sizes = [draw(1, 4) for _ in range(draw(1, 5))]
    views = [
        View(
            (1, targets, size, kernel),
            (0, sum(sizes) * kernel, kernel, 1),
            sum(sizes[:index]) * kernel,
        )
        for index, size in enumerate(sizes)
    ]
    return graph_of((targets, sum(sizes), kernel), *views)


def positions(draw):
    """A table [position, neuron]: positions are cells."""
    length, width = draw(1, 6), draw(1, 6)
    return graph_of((1, length, width), View((width, length), (1, width)))


def halves(draw):
    """A vector whose entries belong to two selections in turn, and a rest."""
    width = draw(1, 6)
    views = [
        View((width,), (2,), 0),
        View((width,), (2,), 1),
        View((3,), (1,), 2 * width),
    ]
    return graph_of((2 * width + 3,), *views)


def mixed(draw):
    """A matrix in four corners, each with its own order: only an index reaches it."""
    rows, columns = draw(2, 4), draw(2, 4)
    views = [
        View((1, half, other), (0, 2 * columns, 1), top * 2 * columns + left)
        for top, half in ((0, rows), (rows, 1))
        for left, other in ((0, columns), (columns, columns))
    ]
    return graph_of((rows + 1, 2 * columns), *views)


KINDS = {
    kind.__name__: kind
    for kind in (
        packed,
        interleaved,
        gates,
        transposed,
        depthwise,
        concatenated,
        positions,
        halves,
        mixed,
    )
}


@pytest.fixture(params=[*MODELS, *KINDS])
def graphs(request):
    """Twenty random graphs of one kind, or that of one module."""
    if request.param in MODELS:
        return [neural_graph(MODELS[request.param]())]
    generator = torch.Generator().manual_seed(0)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    return [KINDS[request.param](draw) for _ in range(20)]


def test_every_entry_has_one_place(graphs):
    for graph in graphs:
        assert_placed_once(graph)


def test_blocks_are_laid_by_the_definition_of_a_view(graphs):
    for graph in graphs:
        assert_laid_by_definition(graph)


@pytest.mark.parametrize("features", [(), (1,), (3, 2)])
def test_the_round_trip_is_exact(graphs, features):
    for graph in graphs:
        assert_round_trip(graph, numbered(graph, features))


def test_the_general_networks_are_placed_whole(general):
    assert_placed_once(general.graph)
    assert_laid_by_definition(general.graph)
    assert_round_trip(general.graph, numbered(general.graph, (2,)))


def test_memory_order_does_not_matter(graphs):
    for graph in graphs:
        tensors = numbered(graph, (2,))
        turned = {
            name: tensor.movedim(0, -1).contiguous().movedim(-1, 0)
            for name, tensor in tensors.items()
        }
        for first, second in zip(
            to_blocks(graph, tensors).edges, to_blocks(graph, turned).edges, strict=True
        ):
            assert torch.equal(first, second)
        assert_round_trip(graph, turned)


def test_stacked_and_differentiated(graphs):
    """vmap adds a first axis; the derivative of a round trip is the identity."""
    for graph in graphs:
        tensors = {n: t.double() for n, t in numbered(graph, (2, 3)).items()}

        def there_and_back(values, graph=graph):
            return from_blocks(graph, to_blocks(graph, values))

        stacked = {n: torch.stack([t, -t]) for n, t in tensors.items()}
        found = torch.func.vmap(there_and_back)(stacked)
        _, pull = torch.func.vjp(there_and_back, tensors)
        (grads,) = pull(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(found[name], stacked[name])
            assert torch.equal(grads[name], tensor)


class TestTheLawsCanFail:
    def test_for_views_that_overlap(self):
        views = [View((1, 2, 3), (0, 3, 1), offset) for offset in (0, 3, 6)]
        graph = graph_of((6, 3), *views)
        with pytest.raises(AssertionError):
            assert_placed_once(graph)
        with pytest.raises(AssertionError):
            assert_round_trip(graph, numbered(graph))

    def test_for_an_offset_that_is_off_by_one(self):
        good = graph_of((3, 2), View((3,), (2,), 0), View((3,), (2,), 1))
        assert_placed_once(good)
        first, second = good.node_parameters
        wrong = replace(second, view=replace(second.view, offset=0))
        graph = replace(good, node_parameters=(first, wrong))
        with pytest.raises(AssertionError):
            assert_placed_once(graph)
        with pytest.raises(AssertionError):
            assert_round_trip(graph, numbered(graph))

    def test_for_blocks_in_another_order(self):
        graph = gates(lambda low, high: 3)
        laid = to_blocks(graph, numbered(graph))
        swapped = Blocks((laid.edges[0].transpose(1, 2),), ())
        found = from_blocks(graph, swapped)
        assert not torch.equal(found["weight"], numbered(graph)["weight"])


def test_ordinary_layers_are_not_copied():
    weight = torch.zeros(4, 3, 3, 3, 2)
    graph = graph_of((4, 3, 3, 3), View.contiguous(1, 4, 3, 3, 3))
    laid = to_blocks(graph, {"weight": weight})
    assert laid.edges[0].data_ptr() == weight.data_ptr()
    assert from_blocks(graph, laid)["weight"].data_ptr() == weight.data_ptr()


def test_views_with_strides_are_not_copied():
    graph = gates(lambda low, high: high)
    weight = torch.zeros(graph.shapes["weight"])
    laid = to_blocks(graph, {"weight": weight})
    assert laid.edges[0].data_ptr() == weight.data_ptr()
