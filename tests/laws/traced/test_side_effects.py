"""Tracing looks and does not touch."""

import pytest
import torch
from torch import nn
from zoo.snapshot import everything_about

from l2o import neural_graph


def assert_same(before, after):
    assert before.keys() == after.keys()
    for name, (value, pointer) in before["tensors"].items():
        assert torch.equal(value, after["tensors"][name][0]), f"{name} changed"
        assert pointer == after["tensors"][name][1], f"{name} moved"
    for old, new in zip(before["inputs"], after["inputs"], strict=True):
        assert old is new is None or torch.equal(old, new)
    assert torch.equal(before["generator"], after["generator"])
    for key in before.keys() - {"tensors", "inputs", "generator"}:
        assert before[key] == after[key], f"{key} changed"


def test_of_a_trace_nothing_stays(small):
    assert_same(*small.around)


class Noisy(nn.Module):
    """Draws random numbers, counts its calls in a buffer, fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 5), nn.BatchNorm1d(5)
        self.last, self.fails = nn.Linear(5, 2), False

    def forward(self, values):
        hidden = self.norm(self.first(values))
        hidden = nn.functional.dropout(hidden + torch.randn_like(hidden))
        if self.fails:
            raise RuntimeError("told to fail")
        return self.last(hidden)


class TestWhatIsDrawnAndCounted:
    def test_is_put_back(self):
        model, inputs = Noisy(), (torch.randn(4, 3),)
        before = everything_about(model, inputs)
        graph = neural_graph(model, *inputs)
        assert graph.placed_share == 1
        assert int(model.norm.num_batches_tracked) == 0
        assert_same(before, everything_about(model, inputs))

    def test_is_put_back_after_an_error_too(self):
        model, inputs = Noisy(), (torch.randn(4, 3),)
        model.fails = True
        before = everything_about(model, inputs)
        with pytest.raises(RuntimeError, match="told to fail"):
            neural_graph(model, *inputs)
        assert_same(before, everything_about(model, inputs))

    def test_the_law_can_fail(self):
        model, inputs = Noisy(), (torch.randn(4, 3),)
        before = everything_about(model, inputs)
        model(*inputs)
        with pytest.raises(AssertionError, match="changed"):
            assert_same(before, everything_about(model, inputs))
