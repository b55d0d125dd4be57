"""A graph with every kind of edge, as PyTorch Geometric sees it."""

import pytest
import torch
from torch_geometric.data import Batch

from l2o.graph import NeuralGraph, NeuronGroup, Neurons, NodeParameter, View
from l2o.graph.pyg import EDGE_TYPES, NODE_TYPES, from_pyg, to_pyg


@pytest.fixture
def tensors(graph):
    """Numbers that tell every entry from every other, and none is zero."""
    return {
        name: torch.arange(torch.Size(shape).numel()).reshape(shape) + start + 1.0
        for start, (name, shape) in zip(
            (0, 100, 200, 300), graph.shapes.items(), strict=True
        )
    }


def test_nodes_and_edges_say_what_they_are(graph):
    data = to_pyg(graph)
    data.validate(raise_on_error=True)
    assert data.x is None
    assert data.edge_attr is None
    assert (data.num_nodes, data.num_edges) == (12, 8 + 8 + 8 + 4)
    assert [NODE_TYPES[k] for k in data.node_type[[0, 2, 6, 11]]] == [
        *("input", "hidden", "hidden", "output")
    ]
    assert data.node_group.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert [EDGE_TYPES[k] for k in data.edge_type[[0, 8, 16, 24]]] == [
        *("weight", "weight", "alias", "residual")
    ]
    assert data.edge_block[::8].tolist() == [0, 1, 2, 3]
    assert data.edge_cells[::8].tolist() == [3, 1, 3, 0]


def test_edges_point_from_source_to_target(graph):
    edge_index = to_pyg(graph).edge_index
    assert edge_index[:, 0:3].tolist() == [[0, 1, 0], [2, 2, 3]]
    # Two parts: targets 3 and 1 read the first two sources, 0 and 2 the others.
    assert edge_index[:, 8:16].tolist() == [
        [2, 3, 2, 3, 4, 5, 4, 5],
        [9, 9, 7, 7, 6, 6, 8, 8],
    ]
    assert edge_index[:, 24:].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9]]


def test_values_stand_at_their_edges_and_nodes(graph, tensors):
    data = to_pyg(graph, tensors)
    assert data.x.shape == (12, 6)
    assert data.x[7].tolist() == [202, 301, 302, 303, 304, 305]
    assert data.x[6].tolist() == [201, 0, 0, 0, 0, 0]
    assert not data.x[:6].any()
    assert data.edge_attr.shape == (28, 3)
    assert data.edge_attr[1].tolist() == [4, 5, 6]
    assert data.edge_attr[8].tolist() == [101, 0, 0]
    assert data.edge_attr[17].tolist() == [7, 8, 9]  # from 1 of `second`, transposed
    assert not data.edge_attr[24:].any()


@pytest.mark.parametrize("features", [(), (2,), (3, 2)])
def test_round_trip_is_exact(graph, tensors, features):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(*tensor.shape, *features, generator=generator)
        for name, tensor in tensors.items()
    }
    found = from_pyg(graph, to_pyg(graph, tensors))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_aliases_and_padding_are_not_read_back(graph, tensors):
    data = to_pyg(graph, tensors)
    data.edge_attr[data.edge_type == EDGE_TYPES.index("alias")] = torch.nan
    padding = torch.arange(3) >= data.edge_cells[:, None]
    data.edge_attr[padding] = torch.nan
    found = from_pyg(graph, data)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_autograd_passes_both_ways(graph, tensors):
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    data = to_pyg(graph, leaves)
    sum((2 * values).sum() for values in from_pyg(graph, data).values()).backward()
    assert all(
        torch.equal(leaf.grad, torch.full_like(leaf, 2)) for leaf in leaves.values()
    )


def test_half_precision_biases_beside_full_weights(graph, tensors):
    tensors["bias"] = tensors["bias"].bfloat16()
    data = to_pyg(graph, tensors)
    assert data.x.dtype == torch.float32
    assert torch.equal(from_pyg(graph, data)["bias"], tensors["bias"].float())


def test_graphs_stack_in_a_batch(graph, tensors):
    batch = Batch.from_data_list([to_pyg(graph, tensors), to_pyg(graph, tensors)])
    assert batch.num_nodes == 24
    assert int(batch.edge_index[:, 28:].min()) == 12
    assert batch.edge_block[28] == 0
    found = from_pyg(graph, batch[1])
    assert torch.equal(found["conv"], tensors["conv"])


def test_a_graph_without_parameters_of_one_kind():
    neurons = Neurons(0, range(3))
    graph = NeuralGraph(
        shapes={"bias": (3,)},
        groups=(NeuronGroup(name="alone", size=3, role="isolated"),),
        blocks=(),
        node_parameters=(
            NodeParameter(parameter="bias", neurons=neurons, view=View.contiguous(3)),
        ),
    )
    data = to_pyg(graph, {"bias": torch.ones(3, 2)})
    assert data.edge_attr.shape == (0, 0, 2)
    assert torch.equal(from_pyg(graph, data)["bias"], torch.ones(3, 2))


def test_values_are_needed_on_the_way_back(graph):
    with pytest.raises(ValueError, match="of 12 nodes and 28 edges; got None and None"):
        from_pyg(graph, to_pyg(graph))
