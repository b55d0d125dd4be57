"""Where gradients are exactly zero, updates die out as Adam's do."""

import pytest
import torch
from torch import nn

from l2o import NeuralGraphOpt, load_rule, shipped_rules
from l2o.rule import directions
from meta_train.estimator_config import ImitationConfig
from meta_train.teacher import Teacher

RULES = [*shipped_rules(), "teacher"]
FAST = ["ff", "teacher"]


def build_rule(name):
    if name == "teacher":
        return Teacher(ImitationConfig(decay_steps=1e6))
    return load_rule(name)


class Experts(nn.Module):
    """Two linear maps in one tensor; the second one is used while it is told to be."""

    def __init__(self, equation):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 6, 4) / 2)
        self.equation = equation

    def forward(self, inputs, gates):
        return torch.einsum(self.equation, self.weight, inputs, gates)


def moved(param, optimizer, zero=None):
    """Take a step; return how far a parameter went, in root mean squares."""
    before = param.detach().clone()
    optimizer.step()
    step = param.detach() - before
    return step[zero] if zero is not None else step


def rms(values):
    return values.square().mean().sqrt().item()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 6, 3), nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)
    )


def warm_up(model, optimizer, steps=15):
    """Train on noise for a while."""
    for seed in range(steps):
        inputs = torch.randn(8, 2, 8, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :1, :3].flatten(1)).square().mean().backward()
        optimizer.step()


def sizes_without_gradients(model, optimizer, steps):
    """Return the size of every parameter's update in each step of zero gradients."""
    found = []
    for _ in range(steps):
        before = [param.detach().clone() for param in model.parameters()]
        for param in model.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()
        pairs = zip(model.parameters(), before, strict=True)
        found.append([rms(param.detach() - old) for param, old in pairs])
    return torch.tensor(found)


@pytest.mark.parametrize("name", RULES)
def test_updates_die_out(model, name):
    optimizer = NeuralGraphOpt(model.parameters(), rule=build_rule(name))
    warm_up(model, optimizer)
    sizes = sizes_without_gradients(model, optimizer, 46)
    # Adam's momentum has decayed to 0.9**20 = 0.12 after 20 steps, to 0.009 after 45.
    assert (sizes[20] <= 0.25 * sizes[0].clamp_min(1e-3)).all()
    assert (sizes[45] <= 0.03 * sizes[0].clamp_min(1e-3)).all()


# The experts are rows, columns, or parts of one tensor.
@pytest.mark.parametrize(
    "equation", ["eoi,bi,e->beo", "eoi,bi,e->bo", "eoi,ebi,e->ebo"]
)
@pytest.mark.parametrize("name", FAST)
def test_an_idle_expert_stands_still(name, equation):
    """One of two maps in a tensor: the other one goes on at full size."""
    torch.manual_seed(0)
    model = Experts(equation)
    optimizer = NeuralGraphOpt(model.parameters(), rule=build_rule(name))
    for seed in range(40):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        inputs = inputs.expand(2, 8, 4) if "ebi" in equation else inputs
        gates = torch.tensor([1.0, float(seed < 10)])
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        model(inputs, gates).square().mean().backward()
        optimizer.step()
        used, idle = (rms(step) for step in model.weight.detach() - before)
    assert idle < 0.05 * used


@pytest.mark.parametrize("name", FAST)
def test_heads_in_turns_are_not_slowed(name):
    """A gradient that is zero every other step is no dead one."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    optimizer = NeuralGraphOpt(layer.parameters(), rule=build_rule(name))
    sizes = []
    for seed in range(20):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        ((seed % 2) * layer(inputs)).sum().backward()
        sizes.append(rms(moved(layer.weight, optimizer)))
    assert min(sizes[-4:]) > 0.3 * max(sizes[-4:])


@pytest.mark.parametrize("name", FAST)
def test_a_loss_that_reaches_zero(name):
    """A hinge loss without violations leaves the network where it is."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 1)
    inputs = torch.randn(64, 4)
    labels = torch.sign(inputs[:, 0])
    optimizer = NeuralGraphOpt(layer.parameters(), rule=build_rule(name))
    last = []
    for _ in range(400):
        optimizer.zero_grad()
        loss = (0.1 - labels * layer(inputs)[:, 0]).relu().mean()
        loss.backward()
        last.append(rms(moved(layer.weight, optimizer)))
        if loss == 0:
            break
    assert loss == 0, "the loss has to reach zero for this to say anything"
    for _ in range(50):
        layer.weight.grad, layer.bias.grad = (
            torch.zeros_like(p) for p in (layer.weight, layer.bias)
        )
        size = rms(moved(layer.weight, optimizer))
    assert size < 0.01 * max(last)


@pytest.mark.parametrize("name", FAST)
def test_they_stay_dead(model, name):
    """Also where the squares of momenta have become too small for float32."""
    optimizer = NeuralGraphOpt(model.parameters(), rule=build_rule(name))
    warm_up(model, optimizer)
    sizes = sizes_without_gradients(model, optimizer, 400)
    assert (sizes[46:] <= 0.03 * sizes[0].clamp_min(1e-3)).all()


@pytest.mark.parametrize("name", ["ng-gnn", "teacher"])
def test_the_law_can_fail(model, name, monkeypatch):
    """Without the gate a decayed momentum is whitened back to full size."""
    whiten_momenta = directions.whiten_momenta

    def without_gate(graph, grads, state, *args):
        # At unit size, which whitening gives it whatever the momentum's size is.
        found = whiten_momenta(graph, grads, state, *args)
        return {
            key: value / (value.square().mean().sqrt() + 1e-30)
            for key, value in found.items()
        }

    monkeypatch.setattr(directions, "whiten_momenta", without_gate)
    optimizer = NeuralGraphOpt(model.parameters(), rule=build_rule(name))
    warm_up(model, optimizer)
    sizes = sizes_without_gradients(model, optimizer, 40)
    assert sizes[39].max() > 0.25 * sizes[0].max()
