"""Under `torch.func`: many networks at once, and every way to differentiate."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from l2o import PRESETS, learned_step, neural_graph, with_theta

NETWORKS, STEPS = 3, 2


@pytest.fixture(params=["default", "default-ff"])
def rule(request, random_rule):
    return random_rule(PRESETS[request.param])


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [
            nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
            for _ in range(NETWORKS)
        ]


@pytest.fixture
def loss_after(rule, networks):
    """Return the loss of one network after some steps, from theta and its weights."""
    model, graph = networks[0], neural_graph(networks[0])
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    targets = inputs.prod(1, keepdim=True)

    def loss(params):
        outputs = functional_call(model, params, inputs)
        return (outputs - targets).square().mean()  # mse_loss lacks a derivative

    def after(theta, params):
        trained = with_theta(rule, theta)
        state = trained.init_state(params)
        for _ in range(STEPS):
            params, state = learned_step(
                trained, graph, params, grad(loss)(params), state
            )
        return loss(params)

    return after


def theta_of(rule):
    return {name: weight.detach() for name, weight in rule.named_parameters()}


def test_a_stack_of_networks_is_each_by_itself(rule, networks, loss_after):
    stacked, _ = stack_module_state(networks)
    theta = theta_of(rule)
    losses = vmap(loss_after, in_dims=(None, 0))(theta, stacked)
    slopes = vmap(grad(loss_after), in_dims=(None, 0))(theta, stacked)
    for index, network in enumerate(networks):
        alone = theta, dict(network.named_parameters())
        torch.testing.assert_close(losses[index], loss_after(*alone), rtol=1e-9, atol=0)
        for name, slope in grad(loss_after)(*alone).items():
            torch.testing.assert_close(
                slopes[name][index], slope, rtol=1e-9, atol=1e-12
            )


def test_forward_and_backward_derivatives_agree(rule, networks, loss_after):
    params = {name: item.detach() for name, item in networks[0].named_parameters()}
    theta = theta_of(rule)
    generator = torch.Generator().manual_seed(2)
    way = {
        name: torch.randn(item.shape, generator=generator, dtype=item.dtype)
        for name, item in theta.items()
    }
    _, forward = jvp(lambda given: loss_after(given, params), (theta,), (way,))
    slopes = grad(loss_after)(theta, params)
    backward = sum((slopes[name] * item).sum() for name, item in way.items())
    assert forward.abs() > 1e-6
    torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-12)
