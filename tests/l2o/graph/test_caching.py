"""Results that are kept with a graph."""

import copy

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph import derived

CALLS = []


@derived
def count_groups(graph, role):
    CALLS.append(role)
    return sum(group.role == role for group in graph.groups)


@derived
def count_blocks(graph, role):
    return len(graph.blocks)


@pytest.fixture
def graph():
    CALLS.clear()
    return neural_graph(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))


def test_are_computed_once_per_arguments(graph):
    assert [count_groups(graph, "hidden") for _ in range(3)] == [1, 1, 1]
    assert count_groups(graph, "input") == 1
    assert CALLS == ["hidden", "input"]


def test_belong_to_one_graph_and_one_function(graph):
    count_groups(graph, "hidden")
    other = neural_graph(nn.Linear(3, 2))
    assert count_groups(other, "hidden") == 0
    assert count_blocks(graph, "hidden") == 2


def test_do_not_make_graphs_differ(graph):
    before = copy.deepcopy(graph)
    count_groups(graph, "hidden")
    assert before == graph
    assert repr(before) == repr(graph)


def test_of_unhashable_arguments_are_refused(graph):
    with pytest.raises(TypeError, match="unhashable"):
        count_groups(graph, ["hidden"])


def test_errors_are_not_kept(graph):
    attempts = []

    @derived
    def fail_once(graph):
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("first")
        return torch.tensor(2)

    with pytest.raises(ValueError, match="first"):
        fail_once(graph)
    assert fail_once(graph) is fail_once(graph)
