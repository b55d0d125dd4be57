"""What a step costs beside its arithmetic: nothing is kept, nothing is waited for."""

import gc
import resource
import sys

import pytest
import torch
from device_work import Waits
from torch import nn

from l2o import NeuralGraphOpt


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


def peak_megabytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_steps():
    model = nn.Linear(3, 2)
    optimizer = NeuralGraphOpt(model.parameters(), rule="ff")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
            scheduler.step()

    train(100)
    tensors, peak = tensors_alive(), peak_megabytes()
    train(1900)
    assert tensors_alive() <= tensors  # fewer: what tests before this one left behind
    assert peak_megabytes() - peak < 4


@pytest.mark.parametrize("name", ["ng-gnn", "ff"])
def test_the_host_never_waits(name):
    """On the meta device, which like an accelerator lies apart from the host."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 4))
    optimizer = NeuralGraphOpt(model.parameters(), weight_decay=0.1, rule=name)
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()  # builds what the graph keeps
    with Waits() as waits:
        optimizer.step()
    assert waits.found == []
    with Waits() as waits, pytest.raises(RuntimeError):
        torch.zeros(2).to("meta").sum().item()
    assert waits.found == ["a blocking copy", "_local_scalar_dense"]
