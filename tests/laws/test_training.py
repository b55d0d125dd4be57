"""Every rule, trained or not, survives the training of a small network."""

import pytest
import torch
from torch import nn

from l2o import PRESETS, NeuralGraphOpt, Rule, load_rule, shipped_rules
from optimizees import MLP, load_fashion_mnist


@pytest.fixture(scope="module")
def data():
    return load_fashion_mnist("validation", source="embedded").pooled(7)


def train(rule, data, steps):
    """Return the losses of an MLP on 7 x 7 pixels, batches of 32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MLP((49, 8, 10))
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    losses = []
    for step in range(steps):
        indices = torch.arange(32) + 32 * step
        indices = indices % len(data)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            model(data.images[indices]), data.labels[indices]
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(param.isfinite().all() for param in model.parameters())
    return torch.tensor(losses)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "paper" else [])
        for name in PRESETS
    ],
)
def test_thirty_steps_untrained_stay_finite(name, data):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = Rule(PRESETS[name])
    assert train(rule, data, 30).isfinite().all()


def test_thirty_steps_with_random_theta_stay_finite(small_config, random_rule, data):
    rule = random_rule(small_config, dtype=torch.float32)
    assert train(rule, data, 30).isfinite().all()


@pytest.mark.slow
def test_every_shipped_rule_learns(data):
    assert shipped_rules() == ["base", "ff", "ng-gnn", "ng-gnn-neurons", "ng-t"]
    for name in shipped_rules():
        losses = train(load_rule(name), data, 100)
        assert losses[-10:].mean() < 0.6 * losses[0], name
