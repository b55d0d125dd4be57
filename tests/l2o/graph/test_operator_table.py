"""Operators of other libraries: a line in the table makes the tracer follow them."""

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph.trace import OPERATORS, entrywise, multiplied
from tests.l2o.graph.test_trace_truth import Middle, distance, movable, weight


@torch.library.custom_op("l2o_tests::shrink", mutates_args=())
def shrink(values: torch.Tensor, by: float) -> torch.Tensor:
    return torch.sign(values) * (values.abs() - by).relu()


@torch.library.custom_op("l2o_tests::mix", mutates_args=())
def mix(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return values @ weight.t() / 2


def follow_mix(tracer, call):
    return multiplied(tracer, call.given["values"], call.given["weight"].t())


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setitem(OPERATORS, "l2o_tests::shrink", entrywise)
    monkeypatch.setitem(OPERATORS, "l2o_tests::mix", follow_mix)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Middle(lambda s, x: shrink(mix(x, s.w), 0.1), w=weight(8, 8)).double()


VALUES = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)


def test_an_operator_can_be_added_from_outside(table, model):
    graph = neural_graph(model, VALUES, strict=True)
    assert graph.placed_share == 1
    (block,) = [block for block in graph.blocks if block.parameter == "w"]
    assert graph.groups[block.target.group].operations[0].name == "l2o_tests::shrink"
    assert movable(graph) == 16
    assert max(distance(model, VALUES, graph, seed) for seed in range(3)) < 1e-9


def test_an_operator_without_a_rule_is_given_up(model):
    graph = neural_graph(model, VALUES)
    reasons = {item.parameter: item.reason for item in graph.unplaced}
    assert "l2o_tests.mix" in reasons["w"]
    assert movable(graph) == 0


def test_a_wrong_rule_fails_the_permutation_check(monkeypatch, model):
    """Declared entry by entry, a running sum over neurons looks exchangeable."""
    monkeypatch.setitem(OPERATORS, "cumsum", entrywise)
    scanned = Middle(lambda s, x: x.cumsum(-1)).double()
    graph = neural_graph(scanned, VALUES)
    assert movable(graph) == 8
    assert distance(scanned, VALUES, graph, 0) > 1e-3


@pytest.mark.parametrize("name", ["addmm", "relu", "native_layer_norm", "cat"])
def test_the_name_is_that_of_the_packet(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))
    seen = []

    def spy(tracer, call):
        seen.append(call.name)
        return original(tracer, call) if original else entrywise(tracer, call)

    original = OPERATORS.get(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPERATORS, name, spy)
        neural_graph(model, torch.randn(2, 3))
    assert seen == {"addmm": ["addmm"] * 2, "cat": []}.get(name, [name])
