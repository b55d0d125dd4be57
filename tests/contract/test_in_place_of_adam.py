"""Training scripts in which `NeuralGraphOpt` takes the place of Adam, nothing else."""

import io
import warnings

import numpy as np
import pytest
import torch
import torch.ao.quantization as quantization
from torch import nn
from torch.nn.functional import mse_loss, silu

from l2o import NeuralGraphOpt, neural_graph


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global one)


def build():
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))


def batch(number, size=32):
    x = torch.randn(size, 10, generator=torch.Generator().manual_seed(number))
    return x, torch.sin(2 * x[:, :1]) * x[:, 1:2] + x[:, 2:3].abs()


def fit(model, optimizer, steps, after=lambda: None):
    """Train; return the loss of each step."""
    losses = []
    for number in range(steps):
        x, y = batch(number)
        y = y.expand(5, -1, -1) if isinstance(model, Ensemble) else y
        loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("rule", ["ff", "base", "ng-gnn-neurons"])
def test_zero_gradients_end_the_motion(rule):
    model = build()
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    fit(model, optimizer, 40)
    places = [model[0].weight.detach().clone()]
    bias = model[0].bias.detach().clone()
    for steps in (1, 99, 100):
        for _ in range(steps):
            for param in model.parameters():
                param.grad = torch.zeros_like(param)
            optimizer.step()
            if len(places) == 1:  # the momentum carries on, at least that of biases
                assert (model[0].bias - bias).norm() > 0
        places.append(model[0].weight.detach().clone())
    start, _, middle, end = places
    moved = (middle - start).norm()
    assert (end - middle).norm() <= 0.01 * moved
    assert moved < 0.2 * start.norm()


@pytest.mark.parametrize(
    "numbers", [{"lr": 1e-3}, {"group": 6e-4}, {"cycle": 1e-3}, {"lr": 1.0}]
)
def test_rates_of_adam_are_told(numbers):
    model = build()
    optimizer = NeuralGraphOpt(model.parameters(), lr=numbers.get("lr", 1.0), rule="ff")
    after = lambda: None
    if "group" in numbers:
        optimizer.param_groups[0]["lr"] = numbers["group"]
    if "cycle" in numbers:
        after = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=numbers["cycle"], total_steps=30, cycle_momentum=False
        ).step
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(model, optimizer, 25, after)
    told = [str(item.message) for item in seen if "lr" in str(item.message)]
    assert len(told) == (numbers.get("lr") != 1.0)


class Ensemble(nn.Module):
    """Five perceptrons in one tensor per layer."""

    def __init__(self, widens):
        super().__init__()
        self.widens, pairs = widens, [(10, 16), (16, 16), (16, 1)]
        self.w = nn.ParameterList(torch.randn(5, i, o) / i**0.5 for i, o in pairs)
        self.b = nn.ParameterList(torch.zeros(5, 1, o) for _, o in pairs)

    def forward(self, x):
        x = self.widens(x)
        for number, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            x = torch.baddbmm(b, silu(x) if number else x, w)
        return x


def test_expanded_inputs_are_those_that_are_repeated():
    found = []
    for widens in (
        lambda x: x[None].expand(5, -1, -1),
        lambda x: x.repeat(5, 1, 1),
    ):
        torch.manual_seed(0)
        model = Ensemble(widens)
        optimizer = NeuralGraphOpt(model.parameters(), rule="ff")
        found.append(fit(model, optimizer, 3))
        assert optimizer.graph.placed_share == 1
    assert found[0] == pytest.approx(found[1], rel=1e-6)


class ForceField(nn.Module):
    """An energy and its gradient for the positions."""

    def __init__(self):
        super().__init__()
        self.kind = nn.Embedding(5, 4)
        self.net = nn.Sequential(
            nn.Linear(7, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1)
        )

    def forward(self, kinds, places):
        places = places.requires_grad_(True)
        energy = self.net(torch.cat([places, self.kind(kinds)], -1)).sum((1, 2))
        force = torch.autograd.grad(energy.sum(), places, create_graph=True)[0]
        return energy, -force


def test_a_gradient_may_be_taken_inside_forward():
    model = ForceField()
    optimizer = NeuralGraphOpt(model.parameters(), rule="ff")
    energy, force = model(torch.randint(0, 5, (8, 6)), torch.randn(8, 6, 3))
    (energy.square().mean() + force.square().mean()).backward()
    optimizer.step()
    assert optimizer.graph.source == "trace of ForceField"
    assert optimizer.graph.placed_share == 1


class Memory:
    """A state that the training loop passes to the model."""

    h, calls = None, 0


class Recurrent(nn.Module):
    """Draws random numbers, writes a log and a state."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 8), nn.Linear(8, 1)
        self.generator = torch.Generator().manual_seed(0)
        self.log = {"sizes": []}

    def forward(self, x, memory):
        self.log["sizes"].append(len(x))
        if np.random.random() < 0:  # noqa: NPY002
            return self.out(x)
        x = x + torch.randn(x.shape, generator=self.generator)
        memory.h, memory.calls = self.cell(x, memory.h), memory.calls + 1
        return self.out(memory.h)


def test_the_first_step_changes_nothing_else():
    model, memory, seen = Recurrent(), Memory(), []
    model.out.register_forward_hook(lambda module, args, out: seen.append(out))
    optimizer = NeuralGraphOpt(model.parameters(), rule="ff")
    model(torch.randn(16, 4), memory).sum().backward()
    state, own = memory.h, model.generator.get_state()
    place = np.random.get_state()[2]  # noqa: NPY002
    optimizer.step()
    assert np.random.get_state()[2] == place  # noqa: NPY002
    assert torch.equal(model.generator.get_state(), own)
    assert model.log == {"sizes": [16]}
    assert [(out.shape, out.requires_grad) for out in seen] == [((16, 1), True)]
    assert memory.calls == 1
    assert memory.h is state
    assert memory.h.requires_grad


@pytest.mark.parametrize(
    "make",
    [torch.optim.Adam, lambda params: NeuralGraphOpt(params, rule="ff")],
    ids=["adam", "l2o"],
)
def test_torchscript_and_saving_the_model(make):
    model, file = build(), io.BytesIO()
    optimizer = make(model.parameters())
    torch.save(model, file)
    assert b"l2o" not in file.getvalue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        scripted = torch.jit.script(model)
        other = make(scripted.parameters())
        for module, own in ((model, optimizer), (scripted, other)):
            fit(module, own, 1)
    assert all(own.state for own in (optimizer, other))


class Coupling(nn.Module):
    """Two networks whose sizes would make one chain, called by a method."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.shift = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

    def log_prob(self, x):
        return (x * torch.exp(self.scale(x)) + self.shift(x)).square().sum(1)

    def forward(self, x):
        return self.log_prob(x)


def test_parallel_networks_are_no_chain():
    model = Coupling()
    optimizer = NeuralGraphOpt(model.parameters(), rule="ff")
    model.log_prob(torch.randn(8, 2)).mean().backward()
    optimizer.step()
    assert wires(optimizer.graph) == wires(neural_graph(model, torch.randn(8, 2)))


def wires(graph):
    names = [group.name for group in graph.groups]
    return [
        (names[b.source.group], b.parameter, names[b.target.group])
        for b in graph.blocks
    ]


class Grouped(nn.Module):
    """A mixture of experts in one product."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 16, 16) / 4)
        self.inp, self.out = nn.Linear(8, 16), nn.Linear(16, 1)

    def forward(self, x):
        ends = torch.arange(1, 5, dtype=torch.int32) * (len(x) // 4)
        return self.out(torch._grouped_mm(self.inp(x), self.up, ends))


class Fourier(nn.Module):
    """A spectral convolution."""

    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Conv1d(1, 8, 1), nn.Conv1d(8, 1, 1)
        self.w = nn.Parameter(torch.randn(8, 8, 5, 2) / 8)

    def forward(self, x):
        kept = torch.fft.rfft(self.inp(x))[..., :5]
        mixed = torch.einsum("bim,iom->bom", kept, torch.view_as_complex(self.w))
        return self.out(torch.fft.irfft(mixed, n=x.shape[-1]))


def quantized():
    model = build().train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        quantization.prepare_qat(model, inplace=True)
    return model


@pytest.mark.parametrize(
    ("make", "shape"),
    [(Grouped, (32, 8)), (quantized, (32, 10)), (Fourier, (32, 1, 16))],
)
def test_rare_operators_are_followed(make, shape):
    model = make()
    optimizer = NeuralGraphOpt(model.parameters(), rule="ff")
    model(torch.randn(shape)).square().mean().backward()
    optimizer.step()
    assert optimizer.graph.placed_share == 1
    assert not optimizer.graph.unplaced
