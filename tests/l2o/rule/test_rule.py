"""A rule of one's own: what the optimizer asks of it, and no more."""

import pytest
import torch
from torch import nn

from l2o import AbstractRule, Hyper, NeuralGraphOpt, learned_step, neural_graph


class Momentum(AbstractRule):
    """Heavy ball, without anything learned."""

    step_size = 0.5

    def check(self, graph):
        if graph.placed_share < 1:
            raise ValueError("Momentum needs a chain.")

    def init_state(self, params):
        return {name: {"ball": torch.zeros_like(p)} for name, p in params.items()}

    def advance(self, state, grads):
        return {
            name: {"ball": 0.9 * item["ball"] + grads[name]} if name in grads else item
            for name, item in state.items()
        }

    def forward(self, graph, params, grads, state):
        return {name: -self.step_size * state[name]["ball"] for name in params}


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(5, 3, dtype=torch.float64)).square().mean().backward()
        optimizer.step()


def test_it_trains_as_written(model):
    twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    twin.load_state_dict(model.state_dict())
    train(model, NeuralGraphOpt(model.parameters(), rule=Momentum()), 5)
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.5, momentum=0.9), 5)
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-9, atol=1e-12)


def test_its_state_is_saved(model):
    optimizer = NeuralGraphOpt(model.parameters(), rule=Momentum())
    train(model, optimizer, 2)
    other = NeuralGraphOpt(model.parameters(), rule=Momentum())
    other.load_state_dict(optimizer.state_dict())
    for param in model.parameters():
        assert torch.equal(other.state[param]["ball"], optimizer.state[param]["ball"])


def test_it_may_refuse_a_graph(model):
    with pytest.raises(ValueError, match="needs a chain"):
        NeuralGraphOpt([torch.zeros(3)], rule=Momentum())


@pytest.mark.parametrize("compiled", [True, False])
def test_a_graph_is_prepared_where_a_step_is_compiled(model, compiled):
    """Elsewhere a graph that the trace will replace is not read for nothing."""
    prepared = []

    class Preparing(Momentum):
        def prepare(self, graph):
            prepared.append(graph)

    NeuralGraphOpt(model.parameters(), rule=Preparing(), compile=compiled)
    assert bool(prepared) == compiled


def test_weight_decay_is_in_units_of_its_step_size():
    params = {"weight": torch.full((2, 3), 2.0, dtype=torch.float64)}
    grads = {"weight": torch.zeros(2, 3, dtype=torch.float64)}
    hyper = {"weight": Hyper(lr=0.1, weight_decay=0.3)}
    new, _ = learned_step(Momentum(), neural_graph(params), params, grads, {}, hyper)
    expected = torch.full_like(new["weight"], 2.0 * (1 - 0.1 * 0.5 * 0.3))
    torch.testing.assert_close(new["weight"], expected, rtol=1e-12, atol=0)


def test_an_abstract_rule_cannot_be_built():
    with pytest.raises(TypeError, match="abstract"):
        AbstractRule()
