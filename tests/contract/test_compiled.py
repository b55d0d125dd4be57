"""`torch.compile` of the model, and of the step from outside."""

from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

from l2o import PRESETS, NeuralGraphOpt
from l2o.nets import FeedForwardConfig

pytestmark = pytest.mark.compile


@pytest.fixture
def run(random_rule, build_model, train):
    """Train with some part compiled; return the model."""
    # The smallest rule: compiling takes most of the time.
    net = FeedForwardConfig(width=4, layers=1)
    config = replace(PRESETS["default-ff"], net=net)

    def take(model=lambda model: model, step=lambda step: step):
        torch.compiler.reset()
        network = build_model()
        rule = random_rule(config, dtype=torch.float32)
        optimizer = NeuralGraphOpt(network.parameters(), weight_decay=0.1, rule=rule)
        ExponentialLR(optimizer, 0.9)
        called = model(network)
        if step is not None:
            optimizer.step = step(optimizer.step)
        train(called, optimizer, range(4))
        return network

    return take


def assert_close(model, other):
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(param, expected, rtol=0, atol=1e-5)


def test_the_model(run):
    assert_close(run(model=torch.compile), run())


def test_the_step(run):
    """From outside it is not compiled at all, and one line says what to do."""
    graphs = []

    def compiled(step):
        return torch.compile(step, backend=lambda graph, _: graphs.append(graph))

    with pytest.warns(UserWarning, match="compile=True") as seen:
        network = run(step=compiled)
    assert len(seen) == 1
    assert graphs == []
    assert_close(network, run())
