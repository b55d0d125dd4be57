"""Batches of trained networks: stacked, collated, split."""

import pytest
import torch

from l2o import neural_graph
from l2o.companion import collate_networks, layered_graph, stack_networks

SMALL = layered_graph({"a": (3, 2), "b": (1, 3)})
LARGE = layered_graph({"a": (4, 2), "b": (1, 4)})


def numbered(graph, number):
    return {
        name: torch.full(shape, float(number)) for name, shape in graph.shapes.items()
    }


@pytest.fixture
def mixed():
    """Networks 0, 1, ... whose weights are their number."""
    graphs = [SMALL, LARGE, SMALL, LARGE, LARGE]
    return collate_networks(
        graphs, [numbered(graph, number) for number, graph in enumerate(graphs)]
    )


def numbers(batch):
    """Return the number of each network, in the order of the batch."""
    found = torch.full((len(batch),), -1.0)
    for stack in batch.stacks:
        found[stack.positions] = stack.params["a"][:, 0, 0].float()
    return found.tolist()


def test_networks_of_one_architecture_are_stacked(mixed):
    assert len(mixed) == 5
    assert [len(stack) for stack in mixed.stacks] == [2, 3]
    assert mixed.stacks[1].params["a"].shape == (3, 4, 2)
    assert numbers(mixed) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_parts_keep_the_order(mixed, size):
    parts = list(mixed.split(size))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert [number for part in parts for number in numbers(part)] == [0, 1, 2, 3, 4]


def test_parts_of_a_stack_are_views():
    params = {name: torch.zeros(4, *shape) for name, shape in SMALL.shapes.items()}
    part = next(stack_networks(SMALL, params).split(2))
    assert part.params["a"].data_ptr() == params["a"].data_ptr()


def test_one_architecture_has_a_graph_and_params(mixed):
    part = next(mixed.split(1))
    assert part.graph is SMALL
    assert list(part.params) == ["a", "b"]
    with pytest.raises(ValueError, match=r"Go through batch\.stacks"):
        _ = mixed.params


def test_it_moves_to_another_dtype(mixed):
    assert mixed.to(torch.float64).like.dtype == torch.float64
    assert numbers(mixed.to(torch.float64)) == [0, 1, 2, 3, 4]


def test_parameters_that_are_not_the_graphs():
    with pytest.raises(ValueError, match="the graph's own names"):
        stack_networks(SMALL, {"a": torch.zeros(5, 3, 2)})
    with pytest.raises(ValueError, match="Pass each network's named parameters"):
        collate_networks([SMALL], [{"c": torch.zeros(3, 2)}])


@pytest.mark.parametrize("b", [(5, 3), (4, 1, 3), ()])
def test_shapes_that_are_not_the_graphs(b):
    with pytest.raises(ValueError, match="along a new first axis"):
        stack_networks(SMALL, {"a": torch.zeros(5, 3, 2), "b": torch.zeros(b)})


def test_nothing_to_collate():
    with pytest.raises(ValueError, match="two sequences of one length"):
        collate_networks([], [])


def test_parts_of_nothing(mixed):
    with pytest.raises(ValueError, match="Pass a positive size"):
        next(mixed.split(0))


class TestEqualArchitectures:
    """Networks of one architecture are one stack, whoever traced them."""

    @staticmethod
    def traced(width):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 2)
        )
        graph = neural_graph(model, torch.zeros(2, 3))
        return graph, {name: w.detach() for name, w in model.named_parameters()}

    def test_equal_graphs_are_stacked(self):
        traces = [self.traced(width) for width in (4, 5, 4, 4)]
        graphs, params = zip(*traces, strict=True)
        assert graphs[0] is not graphs[2]
        batch = collate_networks(graphs, params)
        assert [stack.positions.tolist() for stack in batch.stacks] == [[0, 2, 3], [1]]
        assert batch.stacks[0].graph is graphs[0]

    def test_other_activations_are_another_architecture(self):
        shapes = {"a.weight": (4, 3), "b.weight": (2, 4)}
        graphs = [layered_graph(shapes, activations=(n,)) for n in ("relu", "tanh")]
        params = {name: torch.zeros(shape) for name, shape in shapes.items()}
        assert len(collate_networks(graphs, [params] * 2).stacks) == 2
