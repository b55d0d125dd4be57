"""With constant outputs, the neuron-level rule is an optimizer that is known."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import l2o
from l2o.rule.neuron_config import NeuronRuleConfig

LR = 0.01
PLAIN = {"unit": "one", "step_size": LR, "look_ahead": 0.0, "signal_floor": 0.0}


def assert_close(found, expected):
    for name, value in expected.items():
        error = float((found[name] - value).abs().max() / value.abs().max())
        assert error < 1e-6, f"{name} is off by {error:.1e}"


def ours(rule, **settings):
    return lambda model: l2o.NeuralGraphOpt(
        model.named_parameters(), rule=rule, model=model, **settings
    )


class Reference(torch.optim.Optimizer):
    """Adam's averages, and any change that is made of them.

    Args:
        params: tensors.
        change: from parameter, gradient, momentum and second moment, both corrected, to
            what is subtracted.
        beta: decay of the momentum.
    """

    def __init__(self, params, change, beta=0.9):
        super().__init__(params, {})
        self.change, self.beta = change, beta

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["t"] += 1
                state["m"].lerp_(p.grad, 1 - self.beta)
                state["v"].lerp_(p.grad.square(), 0.001)
                m = state["m"] / (1 - self.beta ** state["t"])
                v = state["v"] / (1 - 0.999 ** state["t"])
                p -= LR * self.change(p, p.grad, m, v)


def adam_direction(p, g, m, v):
    return m / (v.sqrt() + 1e-8)


def lamb(p, g, m, v):
    step = adam_direction(p, g, m, v)
    return step * p.norm() / step.norm()


def adafactor(p, g, m, v):
    """Return Adafactor's factored step of a matrix; Adam's of all else."""
    if g.ndim < 2:
        return g / (v.sqrt() + 1e-8)
    v, g = v.flatten(1), g.flatten(1)
    rows, columns = v.mean(1, keepdim=True), v.mean(0, keepdim=True)
    return (g / (rows * columns / v.mean()).sqrt()).view_as(p)


@pytest.fixture
def in_double(monkeypatch):
    """Let `torch.optim.Muon` compute in float64 instead of bfloat16."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)


class TestAdam:
    CONFIG = NeuronRuleConfig(map_direction="adam", **PLAIN)

    def test_zero_outputs(self, follow, constant_rule):
        follow(
            constant_rule(self.CONFIG),
            lambda params: torch.optim.Adam(params, lr=LR),
        )

    def test_the_law_can_fail(self, follow, constant_rule):
        with pytest.raises(AssertionError, match="is off by"):
            follow(
                constant_rule(self.CONFIG, scale=0.01),
                lambda params: torch.optim.Adam(params, lr=LR),
            )


@pytest.fixture
def follow(convolutional):
    """Train twins for 100 steps on the same batches and compare them."""

    def run(rule, build, *, model=None, only=None, steps=100):
        model = convolutional if model is None else model
        twin = deepcopy(model)
        optimizer = ours(rule)(model)
        other = build([p for p in twin.parameters() if only is None or only(p)])
        generator = torch.Generator().manual_seed(2)
        for _ in range(steps):
            noise = torch.randn(5, 2, 6, 6, generator=generator, dtype=torch.float64)
            target = torch.randn(5, 4, generator=generator, dtype=torch.float64)
            for net, opt in ((model, optimizer), (twin, other)):
                inputs = noise if hasattr(net, "conv") else noise[:, 0, 0]
                net.zero_grad()
                (net(inputs) - target).square().mean().backward()
                opt.step()
        found = {name: p.detach() for name, p in model.named_parameters()}
        expected = {
            name: p.detach()
            for name, p in twin.named_parameters()
            if only is None or only(p)
        }
        assert_close(found, expected)

    return run


@pytest.fixture
def perceptron():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False)
        ).double()


MUON = NeuronRuleConfig(
    unit="one",
    step_size=0.2 * LR,
    momentum_decays=(0.95, 0.99),
    look_ahead=0.05,
    whitening_scale="spectral",
    whitening_steps=5,
    signal_floor=0.0,
)


class TestMuon:
    def build(self, params):
        return torch.optim.Muon(
            params, lr=LR, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )

    def test_zero_outputs(self, follow, constant_rule, perceptron, in_double):
        follow(constant_rule(MUON), self.build, model=perceptron)

    def test_the_law_can_fail(self, follow, constant_rule, perceptron, in_double):
        with pytest.raises(AssertionError, match="is off by"):
            follow(constant_rule(MUON, slow=0.05), self.build, model=perceptron)


class NorMuon(torch.optim.Muon):
    """Muon, its rows at one root mean square, its norm as it was; without memory."""

    def step(self):
        before = [p.detach().clone() for p in self.param_groups[0]["params"]]
        super().step()
        with torch.no_grad():
            for p, old in zip(self.param_groups[0]["params"], before, strict=True):
                change = p - old
                rows = change / change.square().mean(1, keepdim=True).sqrt()
                p.copy_(old + rows * (change.norm() / rows.norm()))


class TestNorMuon:
    def build(self, params):
        return NorMuon(params, lr=LR, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def test_rows(self, follow, constant_rule, perceptron, in_double):
        follow(constant_rule(MUON, row_power=1.0), self.build, model=perceptron)

    def test_the_law_can_fail(self, follow, constant_rule, perceptron, in_double):
        with pytest.raises(AssertionError, match="is off by"):
            follow(constant_rule(MUON), self.build, model=perceptron)


class TestAdafactor:
    CONFIG = NeuronRuleConfig(map_direction="momentum", **PLAIN)

    def test_factored_scale(self, follow, constant_rule):
        rule = constant_rule(self.CONFIG, newest=1.0, factored_power=1.0)
        follow(rule, lambda params: Reference(params, adafactor))

    def test_the_law_can_fail(self, follow, constant_rule):
        rule = constant_rule(self.CONFIG, newest=1.0)
        with pytest.raises(AssertionError, match="is off by"):
            follow(rule, lambda params: Reference(params, adafactor))


class TestLAMB:
    CONFIG = NeuronRuleConfig(map_direction="adam", **PLAIN)

    def test_scale_of_tensors(self, follow, constant_rule, perceptron):
        rule = constant_rule(self.CONFIG, trust_power=1.0)
        follow(rule, lambda params: Reference(params, lamb), model=perceptron)

    def test_the_law_can_fail(self, follow, constant_rule, perceptron):
        rule = constant_rule(self.CONFIG)
        with pytest.raises(AssertionError, match="is off by"):
            follow(rule, lambda params: Reference(params, lamb), model=perceptron)
