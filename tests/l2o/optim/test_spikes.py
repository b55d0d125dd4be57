"""One bad gradient does not push a run for a hundred steps."""

import pytest
import torch
from torch import nn

from l2o import NeuralGraphOpt, SafetyConfig

UNLIMITED = SafetyConfig(max_growth=1e30)


def train(safety, *, spike=None, steps=60):
    """Train; return the weights, and the mean loss of the last 25 steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 1))
    optimizer = NeuralGraphOpt(model.parameters(), rule="ff", safety=safety)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for number in range(steps):
        inputs = torch.randn(16, 4, generator=generator)
        optimizer.zero_grad()
        loss = (model(inputs) - inputs[:, :1].sin()).square().mean()
        losses.append(loss.item())
        loss.backward()
        if number == spike:
            model[2].weight.grad.mul_(1e6)
        optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights, sum(losses[-25:]) / 25


def test_an_ordinary_run_keeps_every_bit():
    assert torch.equal(train(SafetyConfig())[0], train(UNLIMITED)[0])


def test_a_spike_costs_little():
    plain = train(SafetyConfig())[1]
    limited = train(SafetyConfig(), spike=30)[1] - plain
    free = train(UNLIMITED, spike=30)[1] - plain
    assert limited < 0.6 * free


@pytest.mark.parametrize("spike", [0, 9])
def test_the_first_gradients_set_the_scale(spike):
    """Too few gradients say nothing about the size of the next one."""
    safe, free = (train(s, spike=spike)[0] for s in (SafetyConfig(), UNLIMITED))
    assert torch.equal(safe, free)


def test_the_momenta_hold_the_limit():
    layer = nn.Linear(3, 2, bias=False)
    optimizer = NeuralGraphOpt(layer.parameters(), rule="ff")
    for number in range(21):
        layer.weight.grad = torch.full_like(layer.weight, 1e6 if number == 20 else 1.0)
        optimizer.step()
    momenta = optimizer.state[layer.weight]["momenta"]
    half = momenta[0, 0, 0].item()  # of decay 0.5
    assert half == pytest.approx(0.5 + 0.5 * 30, rel=1e-3)


def test_a_limit_must_be_positive():
    with pytest.raises(ValueError, match="max_growth"):
        SafetyConfig(max_growth=0.0)
