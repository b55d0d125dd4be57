"""LSTM and NFN as rules: what they compute, and what they refuse."""

import pytest
import torch
from torch import nn

from l2o import PRESETS, Rule, neural_graph
from l2o.nets import LSTMConfig, NetSizes
from l2o.nets.lstm import LSTMNet


@pytest.fixture
def update():
    """Return what a rule adds, from the gradients of one step."""

    def take(rule, params, grads):
        state = rule.advance(rule.init_state(params), grads)
        with torch.no_grad():
            return rule(neural_graph(params), params, grads, state)

    return take


def test_the_lstm_reads_as_torchs_cell_does():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = NetSizes(num_features=5, num_outputs=2)
        net = LSTMNet(LSTMConfig(width=6), sizes)
        means = torch.randn(4, 6)
    state, expected = None, []
    for mean in means.split(1):
        state = net.cell(mean, state)
        expected.append(state[0])
    torch.testing.assert_close(net.read_in_order(means), torch.cat(expected))


def test_a_tensor_hears_of_those_before_it(update, random_rule):
    generator = torch.Generator().manual_seed(0)
    params, grads = (
        {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in {"a": (3, 2), "b": (3,), "c": (4, 3)}.items()
        }
        for _ in range(2)
    )
    rule = random_rule(PRESETS["paper-lstm"])
    before = update(rule, params, grads)
    after = update(rule, params, {**grads, "b": -grads["b"]})
    moved = [float((after[name] - before[name]).abs().max()) for name in params]
    assert moved[0] == 0
    assert min(moved[1:]) > 1e-6


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2)],
        [nn.Linear(2, 2) for _ in range(5)],
    ],
    ids=["norm", "long"],
)
def test_the_nfn_refuses_what_is_no_short_chain(layers):
    model = nn.Sequential(*layers)
    graph = neural_graph(model, torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"^NFNNet needs a plain chain .* Use NG-GNN"):
        Rule(PRESETS["paper-nfn"]).check(graph)
    Rule(PRESETS["paper-lstm"]).check(graph)


def test_the_nfn_refuses_kernels_beyond_its_own():
    graph = neural_graph(nn.Conv2d(1, 2, 7))
    with pytest.raises(ValueError, match="or one with a larger kernel"):
        Rule(PRESETS["paper-nfn"]).check(graph)


@pytest.mark.parametrize("name", ["paper-lstm", "paper-nfn", "paper-ng-t"])
def test_no_weight_of_the_rule_is_idle(name, random_rule):
    """Every weight moves some update of a chain of four layers with biases."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)
    ).double()
    params = {name: item.detach() for name, item in model.named_parameters()}
    rule = random_rule(PRESETS[name])
    state = rule.advance(rule.init_state(params), params)
    updates = rule(neural_graph(params), params, params, state)
    total = sum(item.square().sum() for item in updates.values())
    grads = torch.autograd.grad(total, list(rule.parameters()))
    assert all(grad.any() for grad in grads)
