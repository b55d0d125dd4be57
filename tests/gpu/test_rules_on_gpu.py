"""Rules train networks on a GPU as on the CPU."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from l2o import NeuralGraphOpt
from optimizees import ConvNet, ResidualNet
from optimizees.lstm import TiedLSTM
from optimizees.transformer import GPT, BlockSizes

RULES = ("ng-gnn", "ng-gnn-neurons", "ng-t", "ff", "base")


def perceptron():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5)
    )


def images(generator):
    return torch.randn(16, 1, 8, 8, generator=generator)


def tokens(generator):
    return torch.randint(11, (4, 8), generator=generator)


NETWORKS = {
    "perceptron": (perceptron, images),
    "cnn": (lambda: ConvNet(1, (4, 8), image_size=8), images),
    "residual": (lambda: ResidualNet(1, 8, 1), images),
    "gpt": (lambda: GPT(11, 8, BlockSizes(width=8, num_blocks=1, num_heads=2)), tokens),
    "lstm": (lambda: TiedLSTM(11, width=8), tokens),
}


def build(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name][0]()


def advance(model, optimizer, name, steps=3, *, forward=nullcontext):
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = NETWORKS[name][1](generator).to(device)
        optimizer.zero_grad()
        with forward():
            outputs = model(inputs)
        targets = torch.arange(outputs.shape[:-1].numel(), device=device) % 5
        cross_entropy(outputs.flatten(0, -2), targets).backward()
        optimizer.step()


def assert_near(found, expected):
    for one, two in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.cpu(), two.cpu(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_the_cpu(gpu, rule, name):
    here, there = build(name), build(name).to(gpu)
    for model in (here, there):
        advance(model, NeuralGraphOpt(model.parameters(), rule=rule), name)
    assert_near(there, here)
    with pytest.raises(AssertionError):
        assert_near(there, build(name))


@pytest.mark.parametrize("rule", RULES)
def test_a_step_waits_for_nothing(gpu, no_waits, rule):
    model = build("cnn").to(gpu)
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    advance(model, optimizer, "cnn", steps=2)
    with no_waits:
        optimizer.step()


@pytest.mark.parametrize(
    "settings",
    [
        {"state_dtype": torch.bfloat16},
        {"total_steps": 5},
        {"weight_decay": 0.1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_do_the_same_there(gpu, settings):
    here, there = build("cnn"), build("cnn").to(gpu)
    for model in (here, there):
        optimizer = NeuralGraphOpt(model.parameters(), **settings)
        advance(model, optimizer, "cnn")
    assert_near(there, here)


def test_averaged_weights_stay_there(gpu):
    model = build("cnn").to(gpu)
    optimizer = NeuralGraphOpt(model.parameters(), average=True)
    advance(model, optimizer, "cnn")
    with optimizer.averaged():
        assert {param.device.type for param in model.parameters()} == {gpu.type}


def test_a_run_moves_between_devices(gpu):
    model = build("cnn").to(gpu)
    optimizer = NeuralGraphOpt(model.parameters())
    advance(model, optimizer, "cnn")
    here = copy.deepcopy(model).cpu()
    other = NeuralGraphOpt(here.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((model, optimizer), (here, other)):
        advance(each, its, "cnn")
    assert_near(model, here)


def test_mixed_precision_trains(gpu):
    model = build("cnn").to(gpu)
    optimizer = NeuralGraphOpt(model.parameters())
    before = copy.deepcopy(model)
    forward = partial(torch.autocast, gpu.type, dtype=torch.bfloat16)
    advance(model, optimizer, "cnn", forward=forward)
    assert all(param.isfinite().all() for param in model.parameters())
    with pytest.raises(AssertionError):
        assert_near(model, before)
