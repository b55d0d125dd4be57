"""Rates by role and their schedule."""

import math

import pytest
import torch
from torch import nn

import l2o
from l2o.graph.matrices import host_matrices
from l2o.rule.base_rates import ROLES, BaseRates, role_of
from l2o.rule.neuron_config import NeuronRuleConfig
from l2o.rule.neuron_rule import NeuronRule


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(30 * x)


class Reader(nn.Module):
    """Every role but that of a sine."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.conv = nn.Conv1d(4, 5, 3)
        self.hidden = nn.Linear(5, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, symbols):
        heard = self.conv(self.embed(symbols).mT).relu().mean(-1)
        return self.last(self.hidden(heard).relu())


def roles_of(model, example):
    graph = l2o.neural_graph(model, example)
    matrices = host_matrices(graph, is_split=True).matrices
    return {m.parameter: ROLES[role_of(graph, m)] for m in matrices}


def test_roles_of_a_reader():
    found = roles_of(Reader(), torch.randint(7, (2, 9)))
    assert found == {
        "embed.weight": "table",
        "conv.weight": "kernel",
        "hidden.weight": "hidden",
        "last.weight": "last",
        **dict.fromkeys(("conv.bias", "hidden.bias", "last.bias"), "vector"),
    }


def test_what_goes_through_a_sine_is_told_apart():
    model = nn.Sequential(nn.Linear(2, 4), Sine(), nn.Linear(4, 4), nn.ReLU())
    found = roles_of(nn.Sequential(*model, nn.Linear(4, 1)), torch.randn(3, 2))
    assert found["0.weight"] == found["0.bias"] == "sine"
    assert found["2.weight"] == "hidden"
    assert found["4.weight"] == "last"


@pytest.fixture
def rates():
    return BaseRates(2).double()


@pytest.fixture
def steps():
    return torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)


def test_untrained_rates_are_one(rates, steps):
    assert rates(torch.zeros(3, dtype=torch.int64), steps).tolist() == [0, 0, 0]


def test_the_schedule_is_the_formula(rates, steps):
    with torch.no_grad():
        rates.log_rates[2] = 0.7
        rates.log_warmup.fill_(math.log(20))
        rates.log_decay_steps[0] = math.log(50)
        rates.decay_power[0] = 0.5
    found = rates(torch.full((3,), 2), steps).exp()
    warm = (steps / 20).clamp(max=1)
    expected = math.exp(0.7) * warm / (1 + steps / 50).sqrt()
    torch.testing.assert_close(found, expected)


def test_averaged_weights_have_a_schedule_of_their_own(rates, steps):
    before = rates(torch.zeros(3, dtype=torch.int64), steps)
    with torch.no_grad():
        rates.log_decay_steps[1] = math.log(50)
        rates.decay_power[1] = 0.5
        rates.average_gain.fill_(0.2)
    place = torch.zeros(3, dtype=torch.int64)
    found = rates(place, steps, is_averaged=True).exp()
    torch.testing.assert_close(found, math.exp(0.2) / (1 + steps / 50).sqrt())
    assert torch.equal(rates(place, steps), before)


def test_a_horizon_takes_the_place_of_the_decay(rates, steps):
    with torch.no_grad():
        rates.decay_power.fill_(3.0)
        rates.horizon_gain.fill_(0.5)
    found = rates(torch.zeros(3, dtype=torch.int64), steps, horizon=50).exp()
    left = torch.tensor([1.0, 0.82, 0.01], dtype=torch.float64)
    torch.testing.assert_close(found, math.exp(0.5) * left)


def test_without_a_network_the_rule_is_its_base_times_the_rates():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    graph = l2o.neural_graph(model, torch.zeros(2, 6, dtype=torch.float64))
    params = {name: p.detach() for name, p in model.named_parameters()}
    grads = {name: torch.randn_like(p) for name, p in params.items()}
    plain = NeuronRule(NeuronRuleConfig(net=None)).double()
    scaled = NeuronRule(NeuronRuleConfig(net=None)).double()
    with torch.no_grad():
        scaled.base_rates.log_rates[ROLES.index("last")] = math.log(3)
    state = plain.advance(plain.init_state(params), grads)
    before = plain(graph, params, grads, state)
    after = scaled(graph, params, grads, state)
    for name, update in after.items():
        factor = 3 if name == "2.weight" else 1
        torch.testing.assert_close(update, factor * before[name])


def test_the_optimizer_tells_the_rule_that_averages_count():
    rule = l2o.load_rule("base")
    layer = nn.Linear(3, 2)
    aimed = l2o.NeuralGraphOpt(layer.parameters(), rule=rule, average=True).rule
    assert aimed.is_averaged
    assert aimed.base_rates is rule.base_rates
    assert not rule.is_averaged
    plain = l2o.NeuralGraphOpt(layer.parameters(), rule=rule)
    assert plain.rule is rule  # nothing is copied where nothing is told
