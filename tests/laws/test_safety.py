"""The net under the step: invisible in a normal run, and never a NaN above it."""

import math

import pytest
import torch
from torch import nn

from l2o import (
    AbstractRule,
    NeuralGraphOpt,
    Rule,
    SafetyConfig,
    guarded_step,
    learned_step,
    neural_graph,
)

BAD = [math.nan, math.inf, -math.inf]


class Factor(AbstractRule):
    """A rule that wants to add a multiple of the gradient."""

    def __init__(self, factor=1.0, step_size=0.01):
        super().__init__()
        self.factor, self.step_size = factor, step_size

    def check(self, graph):
        pass

    def init_state(self, params):
        return {name: {"last": torch.zeros_like(p)} for name, p in params.items()}

    def advance(self, state, grads):
        return {name: {"last": grads.get(name, s["last"])} for name, s in state.items()}

    def forward(self, graph, params, grads, state):
        return {name: self.factor * grad for name, grad in grads.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.fixture
def model(sequential):
    """A fresh MLP in float32; tests may train it."""
    return sequential(lambda: nn.Linear(3, 4), nn.Tanh, lambda: nn.Linear(4, 2)).float()


@pytest.fixture
def run(model, random_grads):
    """Take steps along given changes of the gradients; return weights and optimizer."""

    def take(rule, changes, **options):
        for param in model.parameters():
            nn.init.constant_(param, 0.5)
        optimizer = NeuralGraphOpt(model.named_parameters(), rule=rule, **options)
        params = dict(model.named_parameters())
        for number, (grads, change) in enumerate(
            zip(random_grads(params, steps=len(changes)), changes, strict=True)
        ):
            for name, param in params.items():
                param.grad = grads[name].clone()
            if change is not None:
                change(params, number)
                optimizer.step()
        weights = {name: param.detach().clone() for name, param in params.items()}
        return weights, optimizer

    return take


def nothing(params, number):
    """Leave the gradients as they are."""


WIDE = SafetyConfig(max_update=1e6)
"""Limits for rules at random, whose updates may be large."""


class TestNothingWrong:
    def test_it_is_the_learned_step(self, small_rule, network, random_grads):
        params, state = network.params, {}
        other, other_state = params, state
        with torch.no_grad():
            for grads in random_grads(params, steps=2):
                args = (small_rule, network.graph)
                params, state = learned_step(*args, params, grads, state)
                other, other_state, report = guarded_step(
                    *args, other, grads, other_state, safety=WIDE
                )
                assert report.is_sound
        assert_same(other, params)
        for name in state:
            assert_same(other_state[name], state[name])

    def test_a_parameter_without_gradient_is_left_alone(
        self, small_rule, mlp, random_grads
    ):
        (grads,) = random_grads(mlp.params, steps=1)
        left_out = next(iter(grads))
        del grads[left_out]
        new, state, report = guarded_step(small_rule, mlp.graph, mlp.params, grads, {})
        assert new[left_out] is mlp.params[left_out]
        assert left_out not in state
        assert left_out not in report.update_sizes


class TestNotFinite:
    @pytest.mark.parametrize("value", BAD)
    def test_the_step_might_never_have_been(
        self, small_config, random_rule, run, value
    ):
        rule = random_rule(small_config, dtype=torch.float32)

        def spoil(params, number):
            params["2.bias"].grad[1] = value

        skipped, optimizer = run(rule, [nothing, spoil, nothing])
        left_out, other = run(rule, [nothing, None, nothing])
        assert_same(skipped, left_out)
        states = zip(optimizer.state.values(), other.state.values(), strict=True)
        for state, expected in states:
            assert_same(state, expected)
        seen = optimizer.diagnostics()
        assert (seen.steps, seen.skipped) == (3, 1)

    def test_the_first_step_may_be_the_bad_one(self, small_config, random_rule, run):
        rule = random_rule(small_config, dtype=torch.float32)

        def spoil(params, number):
            params["0.weight"].grad.fill_(math.nan)

        skipped, _ = run(rule, [spoil, nothing])
        assert_same(skipped, run(rule, [None, nothing])[0])

    @pytest.mark.parametrize("factor", BAD)
    def test_an_update_counts_like_a_gradient(self, run, factor):
        weights, optimizer = run(Factor(factor), [nothing])
        assert all((weight == 0.5).all() for weight in weights.values())
        assert optimizer.diagnostics().skipped == 1

    def test_without_the_net_weights_are_lost(self, run):
        def spoil(params, number):
            params["2.bias"].grad[1] = math.nan

        weights, _ = run(Rule(), [spoil], safety=None)
        assert not all(weight.isfinite().all() for weight in weights.values())


class TestHuge:
    """Finite, but their squares are not."""

    def spoil(self, params, number):
        for param in params.values():
            param.grad.copy_(1e30 * (1 + torch.arange(param.numel())).view_as(param))

    def test_gradients_do_no_harm(self, small_config, random_rule, run):
        rule = random_rule(small_config, dtype=torch.float32)
        weights, optimizer = run(rule, [nothing, self.spoil, self.spoil, nothing])
        assert all(weight.isfinite().all() for weight in weights.values())
        assert all((weight != 0.5).all() for weight in weights.values())
        assert optimizer.diagnostics().skipped == 0
        for state in optimizer.state.values():
            assert all(value.isfinite().all() for value in state.values())

    def test_without_the_net_they_do(self, run):
        _, optimizer = run(Rule(), [self.spoil], safety=None)
        states = optimizer.state.values()
        assert not all(state["second_moment"].isfinite().all() for state in states)

    def test_they_keep_their_direction(self, run):
        """An untrained rule is Adam: its first step shows signs only."""
        weights, _ = run(Rule(), [self.spoil])
        for weight in weights.values():
            torch.testing.assert_close(weight, torch.full_like(weight, 0.49))


class TestExploding:
    def test_the_update_becomes_a_nominal_step(self, run):
        weights, optimizer = run(Factor(1e6, step_size=0.02), [nothing])
        for weight in weights.values():
            size = (weight - 0.5).square().mean().sqrt()
            assert size == pytest.approx(0.02, rel=1e-5)
        assert set(optimizer.diagnostics().clipped.values()) == {1}

    def test_the_multiplier_comes_after(self, run):
        weights, _ = run(Factor(1e6, step_size=0.02), [nothing], lr=3.0)
        for weight in weights.values():
            size = (weight - 0.5).square().mean().sqrt()
            assert size == pytest.approx(0.06, rel=1e-5)

    def test_up_to_the_limit_nothing_changes(self, run):
        clipped, _ = run(Factor(1.0), [nothing], safety=SafetyConfig(max_update=1e3))
        free, _ = run(Factor(1.0), [nothing], safety=None)
        assert_same(clipped, free)
        small, optimizer = run(
            Factor(1.0), [nothing], safety=SafetyConfig(max_update=1e-3)
        )
        assert set(optimizer.diagnostics().clipped.values()) == {1}
        with pytest.raises(AssertionError):
            assert_same(small, free)

    def test_one_tensor_does_not_clip_another(self, run):
        def enlarge(params, number):
            params["0.bias"].grad.mul_(1e6)

        weights, optimizer = run(Factor(1e-3), [enlarge])
        plain, _ = run(Factor(1e-3), [nothing])
        del weights["0.bias"], plain["0.bias"]
        assert_same(weights, plain)
        counts = optimizer.diagnostics().clipped
        assert counts.pop("0.bias") == 1
        assert set(counts.values()) == {0}


@pytest.mark.parametrize("name", [pytest.param("ng-gnn", marks=pytest.mark.slow), "ff"])
def test_no_shipped_rule_meets_the_net(name, sequential):
    """A noisy problem, from its first step on."""
    model = sequential(lambda: nn.Linear(6, 8), nn.ReLU, lambda: nn.Linear(8, 3))
    optimizer = NeuralGraphOpt(model.parameters(), rule=name)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        inputs = torch.randn(4, 6, generator=generator, dtype=torch.float64)
        labels = inputs[:, :3].argmax(1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    seen = optimizer.diagnostics()
    assert (seen.steps, seen.skipped) == (100, 0)
    assert not any(seen.clipped.values())
    assert 0 < max(seen.largest_update.values()) < SafetyConfig().max_update / 5


def test_stacked_networks_have_a_net_each(mlp, random_grads):
    """`vmap` passes through: one network's NaN does not stop another."""
    (grads,) = random_grads(mlp.params, steps=1)
    rule, graph = Factor(), neural_graph(mlp.params)
    batch = {name: torch.stack([grad, grad]) for name, grad in grads.items()}
    next(iter(batch.values()))[0] = math.nan

    def step(grads):
        return guarded_step(rule, graph, mlp.params, grads, {})[0]

    new = torch.func.vmap(step)(batch)
    for name, param in mlp.params.items():
        assert torch.equal(new[name][0], param)
        assert not torch.equal(new[name][1], param)
