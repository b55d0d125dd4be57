"""Networks that differentiate inside `forward`, and gradients that go on from there."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from l2o import neural_graph
from l2o.graph.trace import mode
from tests.l2o.graph.test_trace_truth import Middle, distance, movable, weight


class ForceField(nn.Module):
    """An energy and its forces, as in models of molecules."""

    def __init__(self):
        super().__init__()
        self.kind = nn.Embedding(5, 6)
        self.net = nn.Sequential(
            nn.Linear(3 + 6, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1)
        )

    def forward(self, kinds, positions):
        positions = positions.requires_grad_(True)
        joined = torch.cat([positions, self.kind(kinds)], -1)
        energy = self.net(joined).sum((1, 2))
        forces = torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]
        return torch.cat([energy, forces.flatten()])


class Field(nn.Module):
    """A function of two inputs with its derivatives, as in physics-informed nets."""

    def __init__(self, how):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)
        )
        self.how = how

    def forward(self, x):
        match self.how:
            case "twice":
                x = x.requires_grad_()
                values = self.net(x)
                slope = torch.autograd.grad(values.sum(), x, create_graph=True)[0]
                bend = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)[0]
                return torch.cat([values, slope, bend], -1)
            case "jacrev":
                return vmap(jacrev(self.net))(x)
            case "grad":
                return vmap(grad(lambda row: self.net(row).sum()))(x)
            case _:
                x = x.detach().requires_grad_()
                self.net(x).sum().backward()
                return x.grad


class Adapted(nn.Module):
    """Takes a step of gradient descent before it answers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        params = dict(self.net.named_parameters())
        loss = functional_call(self.net, params, (x,)).square().mean()
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        moved = {
            name: p - 0.1 * g
            for (name, p), g in zip(params.items(), grads, strict=True)
        }
        return functional_call(self.net, moved, (x,))


POINTS = torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2)
CASES = {
    **{how: (lambda how=how: Field(how), 16) for how in ("twice", "jacrev", "grad")},
    "backward": (lambda: Field("backward"), 16),
    "adapted": (Adapted, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_is_placed_and_permutes(case):
    torch.manual_seed(0)
    build, least = CASES[case]
    model = build().double()
    graph = neural_graph(model, POINTS, strict=True)
    assert graph.placed_share == 1
    assert movable(graph) >= least
    for seed in range(2):
        # gradients of float64 sums in another order
        assert distance_with_grad(model, graph, seed) < 1e-9


def distance_with_grad(model, graph, seed):
    """Like `distance`, which runs without autograd, for models that need it."""

    class Enabled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, *values):
            with torch.enable_grad():
                return self.inner(*(value.clone() for value in values)).detach()

        def named_parameters(self, *args, **kwargs):
            return model.named_parameters(*args, **kwargs)

        def get_parameter(self, target):
            return model.get_parameter(target)

    return distance(Enabled(), POINTS, graph, seed)


def test_forces_are_placed_whole():
    model = ForceField()
    inputs = torch.randint(0, 5, (8, 6)), torch.randn(8, 6, 3)
    graph = neural_graph(model, *inputs)
    assert (graph.source, graph.placed_share) == ("trace of ForceField", 1)


def slope_of_neurons(module, x):
    """Return a gradient for the hidden values themselves, used as new values."""
    x = x if x.requires_grad else x.detach().requires_grad_()
    return torch.autograd.grad((x * module.w).square().sum(), x, create_graph=True)[0]


def uneven_slope(module, x):
    """Return a gradient in which the hidden neurons count by their number."""
    x = x if x.requires_grad else x.detach().requires_grad_()
    factors = torch.arange(8.0, dtype=x.dtype).expand(x.shape)
    return torch.autograd.grad(x.square(), x, factors, create_graph=True)[0]


class TestGradientsForNeurons:
    VALUES = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)

    def test_follow_their_neurons(self):
        torch.manual_seed(0)
        model = Middle(slope_of_neurons, w=weight(8)).double()
        graph = neural_graph(model, self.VALUES)
        assert graph.placed_share == 1
        assert movable(graph) >= 8

    def test_with_uneven_factors_do_not_move(self):
        model = Middle(uneven_slope).double()
        assert movable(neural_graph(model, self.VALUES)) == 0

    def test_the_law_can_fail(self, monkeypatch):
        """Without the labels of their tensors, gradients would be wrong claims."""
        monkeypatch.setattr(mode, "differentiate", lambda *_: None)
        model = Middle(uneven_slope).double()
        assert movable(neural_graph(model, self.VALUES)) > 0
