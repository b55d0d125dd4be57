"""The plainest use, on every architecture: a hundred steps lower the loss."""

import math

import pytest
import torch
import zoo
from zoo.prepared import build_distinct, tensors_in

from l2o import NeuralGraphOpt

# Some of the networks have most of their parameters outside the graph, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:NeuralGraphOpt needs a place")

QUICK = ("mlp",)


def losses_of(name, steps=100):
    """Fit random targets in float32; return the loss before every step and after."""
    model, inputs = build_distinct(zoo.SMALL[name])
    model = model.float()
    inputs = tuple(x.float() if x.is_floating_point() else x for x in inputs)
    generator = torch.Generator().manual_seed(3)

    def outputs():
        return torch.cat([out.flatten() for out in tensors_in(model(*inputs))])

    with torch.random.fork_rng(devices=[]):
        targets = torch.randn(outputs().shape, generator=generator)
        optimizer = NeuralGraphOpt(model.parameters())
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (outputs() - targets).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        losses.append((outputs() - targets).square().mean().item())
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert optimizer.graph.source.startswith("trace of")
    assert optimizer.graph.placed_share >= zoo.SMALL[name].placed
    return losses


def assert_descent(losses):
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.9 * losses[0], f"from {losses[0]:.3f} to {losses[-1]:.3f}"


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in zoo.SMALL
    ],
)
def test_a_hundred_steps_lower_the_loss(name):
    assert_descent(losses_of(name))


def test_the_law_can_fail():
    with pytest.raises(AssertionError, match="from"):
        assert_descent(losses_of("mlp", steps=0))
