"""Autograd passes through a step: to theta, to the parameters, to the gradients."""

import pytest
import torch

from l2o import learned_step, neural_graph

KINDS = ("theta", "params", "grads")


@pytest.fixture(scope="module")
def problem(random_grads):
    """A tiny MLP and two steps of gradients."""
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in {
            "0.weight": (4, 2),
            "0.bias": (4,),
            "2.weight": (3, 4),
            "2.bias": (3,),
        }.items()
    }
    return neural_graph(params), params, random_grads(params, steps=2)


def objective(rule, graph):
    """Return a scalar function of theta, parameters and the last gradients.

    Two steps, so that the derivative also passes through the state.
    """

    def value(theta, params, grads, first):
        def steps():
            new, state = learned_step(rule, graph, params, first, {})
            new, _ = learned_step(rule, graph, new, grads, state)
            weights = enumerate(new.values(), start=1)
            return sum((weight * tensor).square().sum() for weight, tensor in weights)

        return torch.func.functional_call(
            _Call(rule, steps), {f"rule.{name}": item for name, item in theta.items()}
        )

    return value


class _Call(torch.nn.Module):
    """Make a function see replaced parameters of a rule."""

    def __init__(self, rule, function):
        super().__init__()
        self.rule = rule
        self.function = function

    def forward(self):
        return self.function()


def directions(inputs, seed):
    """Return a random direction of length one."""
    generator = torch.Generator().manual_seed(seed)
    way = {
        name: torch.randn(item.shape, generator=generator, dtype=item.dtype)
        for name, item in inputs.items()
    }
    length = sum(item.square().sum() for item in way.values()).sqrt()
    return {name: item / length for name, item in way.items()}


def slopes(value, arguments, kind, *, size=1e-6):
    """Return the derivative along a random direction: autograd's and the quotient's."""
    inputs = arguments[kind]
    way = directions(inputs, seed=3)

    def along(distance):
        moved = {name: item + distance * way[name] for name, item in inputs.items()}
        return value(**{**arguments, kind: moved})

    distance = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(along(distance), distance)
    with torch.no_grad():
        quotient = (along(size) - along(-size)) / (2 * size)
    return slope, quotient


@pytest.fixture
def arguments(rule, problem):
    _, params, (first, last) = problem
    theta = {name: item.detach() for name, item in rule.named_parameters()}
    return {"theta": theta, "params": params, "grads": last, "first": first}


@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_difference_quotients(rule, problem, arguments, kind):
    slope, quotient = slopes(objective(rule, problem[0]), arguments, kind)
    assert slope != 0
    # Central differences of size 1e-6 are this exact and no more.
    torch.testing.assert_close(slope, quotient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_can_fail(small_rule, problem, kind):
    """A step that cuts the gradient disagrees with the quotient."""
    graph, params, (first, last) = problem
    theta = {name: item.detach() for name, item in small_rule.named_parameters()}
    arguments = {"theta": theta, "params": params, "grads": last, "first": first}
    whole = objective(small_rule, graph)

    def cut(theta, params, grads, first):
        held = {"theta": theta, "params": params, "grads": grads, "first": first}
        detached = {name: item.detach() for name, item in held[kind].items()}
        plain = sum(item.sum() for item in held[kind].values())
        return whole(**{**held, kind: detached}) + 0 * plain

    slope, quotient = slopes(cut, arguments, kind)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(slope, quotient, rtol=1e-5, atol=1e-9)


def test_the_second_derivative_agrees_too(rule, problem, arguments):
    """Meta-training may differentiate through gradients that themselves have some."""
    value = objective(rule, problem[0])
    theta = arguments["theta"]
    way, other = directions(theta, seed=3), directions(theta, seed=4)

    def slope(distance):
        along = torch.zeros((), dtype=torch.float64, requires_grad=True)
        moved = {
            name: item + along * way[name] + distance * other[name]
            for name, item in theta.items()
        }
        (found,) = torch.autograd.grad(
            value(**{**arguments, "theta": moved}), along, create_graph=True
        )
        return found

    distance = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (curvature,) = torch.autograd.grad(slope(distance), distance)
    quotient = (slope(1e-6) - slope(-1e-6)) / 2e-6
    assert curvature.isfinite()
    torch.testing.assert_close(curvature, quotient.detach(), rtol=1e-4, atol=1e-7)


class TestZeroGradients:
    """Dead units have gradients of exactly zero; roots and logarithms must bear it."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("also_params", [False, True])
    def test_derivatives_are_finite(
        self, config, random_rule, problem, dtype, also_params
    ):
        rule = random_rule(config, dtype=dtype)
        graph, params, _ = problem
        params = {
            name: (item.to(dtype) * (not also_params)).requires_grad_()
            for name, item in params.items()
        }
        grads = {
            name: torch.zeros_like(item, requires_grad=True)
            for name, item in params.items()
        }
        new, state = learned_step(rule, graph, params, grads, {})
        new, _ = learned_step(rule, graph, new, grads, state)
        loss = sum((item - 1).square().sum() for item in new.values())
        inputs = [*rule.parameters(), *params.values(), *grads.values()]
        found = torch.autograd.grad(loss, inputs, allow_unused=True)
        assert loss.isfinite()
        assert all(item is None or item.isfinite().all() for item in found)

    def test_second_derivatives_are_finite(self, rule, problem):
        graph, params, (first, _) = problem
        theta = {
            name: item.detach().requires_grad_()
            for name, item in rule.named_parameters()
        }
        zeros = {name: torch.zeros_like(item) for name, item in params.items()}
        for grads in (zeros, first):
            loss = objective(rule, graph)(theta, params, zeros, grads)
            slope = torch.autograd.grad(
                loss, list(theta.values()), create_graph=True, allow_unused=True
            )
            size = sum(item.square().sum() for item in slope if item is not None)
            curvature = torch.autograd.grad(
                size, list(theta.values()), allow_unused=True
            )
            assert all(item is None or item.isfinite().all() for item in curvature)
