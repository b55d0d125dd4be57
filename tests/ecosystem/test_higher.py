"""Meta-gradients through `higher` are those of differentiating our own step."""

import importlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.func import functional_call

from l2o import PRESETS, Hyper, NeuralGraphOpt, SafetyConfig, learned_step, neural_graph
from l2o.rule.config import NominalHeadConfig
from optimizees import MLP, ConvNet

STEPS = 3


@pytest.fixture(scope="module")
def innerloop_ctx(higher):
    from l2o.optim.higher_adapter import register_with_higher

    register_with_higher()
    return higher.innerloop_ctx


@pytest.fixture(params=["default", "default-ff"])
def rule(request, random_rule):
    head = NominalHeadConfig(unit="one")  # graphs of shapes and traced ones agree
    return random_rule(replace(PRESETS[request.param], head=head))


@pytest.fixture(params=["mlp", "cnn"])
def problem(request):
    """A smooth network in float64 with a batch an inner step and one for the end."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if request.param == "mlp":
            model, shape = MLP((3, 5, 2), activation="tanh").double(), (3,)
        else:
            model = ConvNet(1, (3, 4), num_classes=2, activation="tanh", image_size=6)
            model, shape = model.double(), (1, 6, 6)
    batches = [
        (
            torch.randn(4, *shape, generator=generator, dtype=torch.float64),
            torch.randn(4, 2, generator=generator, dtype=torch.float64),
        )
        for _ in range(STEPS + 1)
    ]
    return SimpleNamespace(model=model, batches=batches)


def loss_of(outputs, targets):
    return nn.functional.mse_loss(outputs, targets)


def unroll(rule, problem, params, *, first_order=False, hyper=None):
    """Return the loss after some steps of our own, with its graph."""
    graph, state = neural_graph(problem.model), {}
    *inner, (inputs, targets) = problem.batches
    for batch, wanted in inner:
        loss = loss_of(functional_call(problem.model, params, batch), wanted)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        if first_order:
            grads = [grad.detach() for grad in grads]
        named = dict(zip(params, grads, strict=True))
        params, state = learned_step(rule, graph, params, named, state, hyper)
    return loss_of(functional_call(problem.model, params, inputs), targets)


def unroll_in_higher(innerloop_ctx, problem, optimizer, *, callback=None, **settings):
    """Return the same loss, from `higher`."""
    *inner, (inputs, targets) = problem.batches
    with innerloop_ctx(problem.model, optimizer, **settings) as (network, inner_loop):
        for batch, wanted in inner:
            inner_loop.step(loss_of(network(batch), wanted), grad_callback=callback)
        return loss_of(network(inputs), targets)


def values_of(model):
    return {
        name: param.detach().clone().requires_grad_()
        for name, param in model.named_parameters()
    }


def assert_same_gradients(found, expected, inputs, other_inputs):
    """Compare losses and all their derivatives; some must not be zero."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    slopes = torch.autograd.grad(found, inputs)
    wanted = torch.autograd.grad(expected, other_inputs)
    assert any(slope.abs().max() > 1e-6 for slope in wanted)
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-9, atol=1e-12)


WIDE = SafetyConfig(max_update=1e6)
"""Limits for rules at random; the differentiable optimizer has none."""


def optimizer_for(problem, rule, **settings):
    params = problem.model.named_parameters()
    return NeuralGraphOpt(params, rule=rule, safety=WIDE, **settings)


class TestMetaGradients:
    @pytest.mark.parametrize("first_order", [False, True])
    def test_of_the_rules_own_theta(self, innerloop_ctx, problem, rule, first_order):
        expected = unroll(
            rule, problem, values_of(problem.model), first_order=first_order
        )
        found = unroll_in_higher(
            innerloop_ctx,
            problem,
            optimizer_for(problem, rule),
            callback=(lambda grads: [grad.detach() for grad in grads])
            if first_order
            else None,
        )
        theta = list(rule.parameters())
        assert_same_gradients(found, expected, theta, theta)

    def test_the_comparison_can_fail(self, innerloop_ctx, problem, rule):
        theta = list(rule.parameters())
        whole = unroll(rule, problem, values_of(problem.model))
        cut = unroll(rule, problem, values_of(problem.model), first_order=True)
        with pytest.raises(AssertionError):
            assert_same_gradients(cut, whole, theta, theta)

    def test_of_a_theta_that_is_given(self, innerloop_ctx, problem, rule):
        theta = {name: 1.1 * item.detach() for name, item in rule.named_parameters()}
        for item in theta.values():
            item.requires_grad_()
        found = unroll_in_higher(
            innerloop_ctx,
            problem,
            optimizer_for(problem, rule),
            override={"theta": [theta]},
        )
        inputs = list(theta.values())
        assert all(
            slope is None
            for slope in torch.autograd.grad(
                found, list(rule.parameters()), retain_graph=True, allow_unused=True
            )
        )
        with torch.no_grad():
            for name, item in rule.named_parameters():
                item.copy_(theta[name])
        expected = unroll(rule, problem, values_of(problem.model))
        assert_same_gradients(found, expected, inputs, list(rule.parameters()))

    def test_of_the_second_order(self, innerloop_ctx, problem, rule):
        """Derivatives of the size of a meta-gradient, as in learning to meta-learn."""

        def size_of_slope(loss):
            slopes = torch.autograd.grad(
                loss, list(rule.parameters()), create_graph=True
            )
            return sum(slope.square().sum() for slope in slopes)

        found = unroll_in_higher(innerloop_ctx, problem, optimizer_for(problem, rule))
        expected = unroll(rule, problem, values_of(problem.model))
        theta = list(rule.parameters())
        assert_same_gradients(
            size_of_slope(found), size_of_slope(expected), theta, theta
        )

    def test_of_the_first_weights(self, innerloop_ctx, problem, rule):
        """As MAML takes them."""
        found = unroll_in_higher(
            innerloop_ctx,
            problem,
            optimizer_for(problem, rule),
            copy_initial_weights=False,
        )
        params = values_of(problem.model)
        assert_same_gradients(
            found,
            unroll(rule, problem, params),
            list(problem.model.parameters()),
            list(params.values()),
        )

    def test_of_lr(self, innerloop_ctx, problem, rule):
        lr = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        found = unroll_in_higher(
            innerloop_ctx,
            problem,
            optimizer_for(problem, rule, weight_decay=0.1),
            override={"lr": [lr]},
        )
        params = values_of(problem.model)
        hyper = dict.fromkeys(params, Hyper(lr=lr, weight_decay=0.1))
        expected = unroll(rule, problem, params, hyper=hyper)
        assert_same_gradients(found, expected, [lr], [lr])


class TestInnerLoop:
    def test_its_steps_are_the_optimizers(self, innerloop_ctx, problem, rule):
        optimizer = optimizer_for(problem, rule, lr=0.5, weight_decay=0.1)
        found = unroll_in_higher(innerloop_ctx, problem, optimizer)
        *inner, (inputs, targets) = problem.batches
        for batch, wanted in inner:
            optimizer.zero_grad()
            loss_of(problem.model(batch), wanted).backward()
            optimizer.step()
        expected = loss_of(problem.model(inputs), targets)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)

    def test_windows_go_on_where_the_last_one_ended(self, innerloop_ctx, problem, rule):
        found = unroll_in_higher(innerloop_ctx, problem, optimizer_for(problem, rule))
        optimizer = optimizer_for(problem, rule)
        *inner, (inputs, targets) = problem.batches
        for window in (inner[:2], inner[2:]):
            with innerloop_ctx(problem.model, optimizer) as (network, inner_loop):
                for batch, wanted in window:
                    inner_loop.step(loss_of(network(batch), wanted))
                inner_loop.write_back(optimizer)
        expected = loss_of(problem.model(inputs), targets)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        state = optimizer.state[next(problem.model.parameters())]
        assert state["step"] == STEPS
        assert not any(value.requires_grad for value in state.values())

    def test_without_tracking_nothing_is_kept(self, innerloop_ctx, problem, rule):
        loss = unroll_in_higher(
            innerloop_ctx,
            problem,
            optimizer_for(problem, rule),
            track_higher_grads=False,
        )
        slopes = torch.autograd.grad(loss, list(rule.parameters()), allow_unused=True)
        assert all(slope is None for slope in slopes)

    @pytest.fixture
    def partial_optimizer(self, problem, rule):
        """Build one that reads the first layer and does not train it."""
        _, *others = problem.model.parameters()
        groups = [
            {"params": others[:1], "lr": 0.5, "maximize": True},
            {"params": others[1:]},
        ]
        return NeuralGraphOpt(groups, rule=rule, model=problem.model, safety=WIDE)

    def test_it_needs_the_model_to_read_what_rests(
        self, higher, innerloop_ctx, problem, partial_optimizer
    ):
        params = list(problem.model.parameters())
        inner_loop = higher.get_diff_optim(partial_optimizer, params)
        loss = loss_of(problem.model(problem.batches[0][0]), problem.batches[0][1])
        with pytest.raises(ValueError, match="Pass fmodel=, or build the optimizer"):
            inner_loop.step(loss, params=params)

    def test_groups_and_parameters_that_rest(
        self, innerloop_ctx, problem, partial_optimizer
    ):
        first, optimizer = next(problem.model.parameters()), partial_optimizer
        found = unroll_in_higher(innerloop_ctx, problem, optimizer)
        before = first.detach().clone()
        *inner, (inputs, targets) = problem.batches
        for batch, wanted in inner:
            optimizer.zero_grad()
            loss_of(problem.model(batch), wanted).backward()
            optimizer.step()
        assert torch.equal(first, before)
        expected = loss_of(problem.model(inputs), targets)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)

    def test_a_subclass_is_registered_by_itself(self, higher, innerloop_ctx, rule):
        from l2o.optim.higher_adapter import register_with_higher

        class Mine(NeuralGraphOpt):
            pass

        model = nn.Linear(3, 2).double()
        optimizer = Mine(model.parameters(), rule=rule)
        with (
            pytest.raises(ValueError, match="not supported"),
            innerloop_ctx(model, optimizer),
        ):
            pass
        register_with_higher(Mine)
        with innerloop_ctx(model, optimizer) as (_, inner_loop):
            assert inner_loop.rule is rule


def test_without_the_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "l2o.optim.higher_adapter", raising=False)
    monkeypatch.setitem(sys.modules, "higher", None)
    with pytest.raises(ImportError, match=r"pip install 'l2o\[higher\]'"):
        importlib.import_module("l2o.optim.higher_adapter")
