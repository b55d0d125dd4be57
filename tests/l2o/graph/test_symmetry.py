import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph import (
    NeuralGraph,
    NeuronGroup,
    Neurons,
    View,
    WeightBlock,
    permute_parameters,
    random_permutations,
)

KEEP2, KEEP4 = torch.arange(2), torch.arange(4)
SWAP2, SWAP4 = torch.tensor([1, 0]), torch.tensor([2, 3, 0, 1])


def graph_of(*blocks, shapes):
    groups = [NeuronGroup(name=name, size=4, role="hidden") for name in "ab"]
    return NeuralGraph(
        shapes=shapes, groups=tuple(groups), blocks=blocks, node_parameters=()
    )


def block_of(view, source=range(4), target=range(4), **settings):
    return WeightBlock(
        parameter="weight",
        source=Neurons(0, source),
        target=Neurons(1, target),
        view=view,
        **settings,
    )


def test_rows_columns_and_biases_move():
    graph = neural_graph(nn.Linear(2, 2))
    tensors = {
        "weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "bias": torch.tensor([5.0, 6.0]),
    }
    found = permute_parameters(graph, [KEEP2, SWAP2], tensors)
    assert found["weight"].tolist() == [[3, 4], [1, 2]]
    assert found["bias"].tolist() == [6, 5]
    found = permute_parameters(graph, [SWAP2, KEEP2], tensors)
    assert found["weight"].tolist() == [[2, 1], [4, 3]]
    assert found["bias"].tolist() == [5, 6]


def test_parts_may_change_places_whole():
    graph = graph_of(block_of(View.contiguous(2, 2, 2)), shapes={"weight": (4, 2)})
    weight = torch.arange(8).reshape(4, 2)
    found = permute_parameters(graph, [SWAP4, SWAP4], {"weight": weight})
    assert found["weight"].tolist() == [[4, 5], [6, 7], [0, 1], [2, 3]]


def test_only_what_has_a_symmetry_is_permuted():
    graph = neural_graph(nn.Sequential(nn.Linear(3, 50), nn.Linear(50, 3)))
    first, hidden, last = random_permutations(graph, torch.Generator().manual_seed(0))
    assert first.tolist() == last.tolist() == [0, 1, 2]
    assert sorted(hidden.tolist()) == list(range(50)) != hidden.tolist()


class TestErrors:
    def test_a_neuron_that_leaves_its_part(self):
        graph = graph_of(block_of(View.contiguous(2, 2, 2)), shapes={"weight": (4, 2)})
        mixed = torch.tensor([0, 2, 1, 3])
        with pytest.raises(ValueError, match="Permute within the parts"):
            permute_parameters(graph, [mixed, KEEP4], {"weight": torch.zeros(4, 2)})

    def test_a_neuron_that_leaves_its_block(self):
        half = block_of(View.contiguous(1, 2, 4), target=range(2))
        graph = graph_of(half, shapes={"weight": (2, 4)})
        with pytest.raises(ValueError, match="moves a neuron of 'weight' out"):
            permute_parameters(graph, [KEEP4, SWAP4], {"weight": torch.zeros(2, 4)})

    def test_parts_whose_ends_move_apart(self):
        graph = graph_of(block_of(View.contiguous(4, 1, 1)), shapes={"weight": (4,)})
        with pytest.raises(ValueError, match="at both ends the same permutation"):
            permute_parameters(graph, [KEEP4, SWAP4], {"weight": torch.zeros(4)})

    def test_tied_weights_that_move_apart(self):
        block = block_of(View.contiguous(1, 4, 4))
        alias = block_of(View((1, 4, 4), (0, 1, 4)), is_alias=True)
        graph = graph_of(block, alias, shapes={"weight": (4, 4)})
        weight = {"weight": torch.arange(16).reshape(4, 4)}
        assert permute_parameters(graph, [SWAP4, SWAP4], weight)
        with pytest.raises(ValueError, match="two uses of 'weight' disagree"):
            permute_parameters(graph, [KEEP4, SWAP4], weight)
