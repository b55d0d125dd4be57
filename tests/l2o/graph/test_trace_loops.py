"""Loops: what an operator did on the same labels before is not done again."""

import pytest
import torch
import zoo
from torch import nn
from zoo.prepared import build_distinct

from l2o import neural_graph
from l2o.graph.trace import mode
from tests.l2o.graph.test_trace_truth import CASES


class Unrolled(nn.Module):
    """A cell applied to one step after the other."""

    def __init__(self, kind):
        super().__init__()
        self.cell, self.last = kind(3, 5), nn.Linear(5, 2)

    def forward(self, values):
        state = None
        for step in values.unbind(1):
            state = self.cell(step, state)
        return self.last(state[0] if isinstance(state, tuple) else state)


class Recurrent(nn.Module):
    """The same loop inside torch."""

    def __init__(self, kind):
        super().__init__()
        self.rows, self.last = kind(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, values):
        return self.last(self.rows(values)[0][:, -1])


MODELS = {
    "LSTMCell": lambda: Unrolled(nn.LSTMCell),
    "GRUCell": lambda: Unrolled(nn.GRUCell),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
}


def followed(model, steps, monkeypatch):
    """Return the graph, and how many calls of operators went through rules."""
    calls = []
    with monkeypatch.context() as patch:
        original = mode.labels_of
        patch.setattr(
            mode, "labels_of", lambda *args: calls.append(1) or original(*args)
        )
        graph = neural_graph(model, torch.randn(2, steps, 3), strict=True)
    return graph, len(calls)


@pytest.mark.parametrize("name", MODELS)
def test_more_steps_are_not_followed_again(name, monkeypatch):
    model = MODELS[name]()
    few, many = (followed(model, steps, monkeypatch) for steps in (5, 9))
    assert few == many
    assert len(few[0].groups) <= 10


def test_the_law_can_fail(monkeypatch):
    model = MODELS["LSTMCell"]()
    monkeypatch.setattr(mode, "_signature", lambda *_: None)
    few, many = (followed(model, steps, monkeypatch)[1] for steps in (5, 15))
    assert many > 2 * few


def graph_of(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = build()
        return neural_graph(model, *inputs)


NAMES = ("lstm", "gru", "bidirectional_lstm", "gpt", "densenet", "shared_layer")
BUILDS = {
    **{
        name: lambda case=case: (case[2]().double(), (torch.ones(case[0]).double(),))
        for name, case in CASES.items()
    },
    **{name: lambda name=name: build_distinct(zoo.SMALL[name]) for name in NAMES},
}


QUICK = ("lstm", "gru", "shared_layer", "weight used twice", "time shift")


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(tuple(BUILDS), marks=pytest.mark.slow)]
)
def test_no_graph_depends_on_what_is_remembered(names, monkeypatch):
    found = {name: graph_of(BUILDS[name]) for name in names}
    monkeypatch.setattr(mode, "_signature", lambda *_: None)
    assert found == {name: graph_of(BUILDS[name]) for name in names}
