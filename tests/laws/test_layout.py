"""Every entry of every parameter has one place in the blocks, and keeps it."""

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph import Blocks, from_blocks, to_blocks
from l2o.graph.layout import crop_cells, pad_cells

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


@pytest.fixture(params=MODELS)
def graph(request):
    return neural_graph(MODELS[request.param]())


def numbered(graph, features=()):
    """Return tensors in which every number stands once."""
    tensors, start = {}, 0
    for name, shape in graph.shapes.items():
        size = (*shape, *features)
        count = torch.Size(size).numel()
        tensors[name] = torch.arange(start, start + count).reshape(size)
        start += count
    return tensors


def assert_round_trip(graph, tensors, blocks):
    found = from_blocks(graph, blocks)
    assert list(found) == list(graph.shapes)
    for name, tensor in tensors.items():
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("features", [(), (1,), (5, 2)])
def test_the_round_trip_is_exact(graph, features):
    tensors = numbered(graph, features)
    assert_round_trip(graph, tensors, to_blocks(graph, tensors))


def test_every_entry_has_one_place(graph):
    blocks = to_blocks(graph, numbered(graph))
    placed = torch.cat([item.flatten() for item in (*blocks.edges, *blocks.nodes)])
    assert torch.equal(placed.sort().values, torch.arange(graph.num_parameters))


def test_blocks_have_the_sizes_of_their_neurons(graph):
    blocks = to_blocks(graph, numbered(graph, (5,)))
    for block, edges in zip(graph.blocks, blocks.edges, strict=True):
        parts = block.parts
        sizes = [len(block.target) // parts, len(block.source) // parts]
        assert list(edges.shape) == [parts, *sizes, block.num_cells, 5]
    for node, values in zip(graph.node_parameters, blocks.nodes, strict=True):
        assert list(values.shape) == [len(node.neurons), node.num_cells, 5]


def test_the_law_can_fail():
    graph = neural_graph(MODELS["flattened"]())
    tensors = numbered(graph)
    blocks = to_blocks(graph, tensors)
    swapped = tuple(
        edges.transpose(2, 3).reshape(edges.shape) for edges in blocks.edges
    )
    with pytest.raises(AssertionError):
        assert_round_trip(graph, tensors, Blocks(swapped, blocks.nodes))


class TestCells:
    @pytest.mark.parametrize(
        ("cells", "size", "places"),
        [
            ((3, 3), (5, 5), [6, 7, 8, 11, 12, 13, 16, 17, 18]),
            ((2, 2), (5, 5), [6, 7, 11, 12]),
            ((1, 1), (3, 3), [4]),
            ((), (3, 3), [4]),
            ((), (5, 5), [12]),
            ((1, 1), (7, 7), [24]),
            (
                (3, 5),
                (7, 7),
                [7 * row + column for row in (2, 3, 4) for column in range(1, 6)],
            ),
            (
                (5, 3),
                (7, 7),
                [7 * row + column for row in range(1, 6) for column in (2, 3, 4)],
            ),
            ((4,), (5, 5), [10, 11, 12, 13]),
            ((5, 5), (5, 5), list(range(25))),
            ((3,), (4,), [0, 1, 2]),
        ],
    )
    @pytest.mark.parametrize("features", [(), (2,), (2, 3)])
    def test_kernels_are_centred_and_come_back(self, cells, size, places, features):
        generator = torch.Generator().manual_seed(0)
        kernel = torch.rand(4, 3, len(places), *features, generator=generator)
        padded = pad_cells(kernel, cells, size)
        assert padded.shape == (4, 3, torch.Size(size).numel(), *features)
        assert torch.equal(padded[:, :, places], kernel)
        empty = [i for i in range(padded.shape[2]) if i not in places]
        assert not padded[:, :, empty].any()
        assert torch.equal(crop_cells(padded, cells, size), kernel)

    @pytest.mark.parametrize("cells", [(6, 6), (3, 6), (6,), (1, 1, 1)])
    def test_a_kernel_that_does_not_fit_is_refused(self, cells):
        kernel = torch.zeros(1, 1, torch.Size(cells).numel())
        with pytest.raises(ValueError, match=r"Use a rule that pools kernel cells"):
            pad_cells(kernel, cells, (5, 5))
