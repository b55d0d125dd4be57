"""The neuron-level rule is a pure function that `torch.func` and autograd take."""

import pytest
import torch
from torch.func import functional_call, grad, vmap


@pytest.fixture
def setting(small_named, build_rule, random_grads):
    subject = small_named("gpt")
    rule = build_rule()
    grads = random_grads(subject.params, 2)
    state = rule.init_state(subject.params)
    for step in grads:
        state = rule.advance(state, step)
    return rule, subject.graph, subject.params, grads[-1], state


def test_inputs_stay_as_they_are(setting):
    rule, graph, params, grads, state = setting
    copies = [{n: t.clone() for n, t in item.items()} for item in (params, grads)]
    kept = {n: {k: t.clone() for k, t in item.items()} for n, item in state.items()}
    with torch.no_grad():
        rule(graph, params, grads, state)
    for item, copy in zip((params, grads), copies, strict=True):
        assert all(torch.equal(item[name], copy[name]) for name in item)
    for name, item in state.items():
        assert all(torch.equal(item[key], kept[name][key]) for key in item)


def test_with_and_without_autograd(setting):
    rule, *args = setting
    expected = rule(*args)
    with torch.no_grad():
        found = rule(*args)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_vmap_is_a_loop(setting):
    rule, graph, params, grads, state = setting
    generator = torch.Generator().manual_seed(0)

    def stacked(values):
        if isinstance(values, dict):
            return {key: stacked(item) for key, item in values.items()}
        noise = torch.rand(3, *[1] * values.ndim, generator=generator)
        return values * (1 + (noise if values.ndim else 0 * noise))

    many = [stacked(item) for item in (params, grads, state)]
    theta = dict(rule.named_parameters())

    def step(params, grads, state):
        return functional_call(rule, theta, (graph, params, grads, state))

    with torch.no_grad():
        found = vmap(step)(*many)
        for lane in range(3):

            def pick(values, lane=lane):
                if isinstance(values, dict):
                    return {key: pick(item) for key, item in values.items()}
                return values[lane]

            expected = step(*map(pick, many))
            for name, update in expected.items():
                torch.testing.assert_close(
                    found[name][lane], update, rtol=1e-9, atol=1e-14
                )


def loss_of(rule, args):
    def loss(theta):
        updates = functional_call(rule, theta, args)
        return sum(
            (update * (1 + torch.arange(update.numel()).view(update.shape))).sum()
            for update in updates.values()
        )

    return loss


class TestMetaGradients:
    def test_torch_func_agrees_with_autograd(self, setting):
        rule, *args = setting
        args = tuple(args)

        theta = dict(rule.named_parameters())
        loss = loss_of(rule, args)
        found = grad(loss)({name: item.detach() for name, item in theta.items()})
        expected = torch.autograd.grad(
            loss(theta), list(theta.values()), materialize_grads=True, allow_unused=True
        )
        for value, other in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12)

    def test_they_are_finite_differences(self, setting):
        rule, *args = setting
        args = tuple(args)

        theta = {n: item.detach() for n, item in rule.named_parameters()}
        loss = loss_of(rule, args)
        slopes = grad(loss)(theta)
        generator = torch.Generator().manual_seed(2)
        way = {
            name: torch.randn(item.shape, generator=generator, dtype=item.dtype)
            for name, item in theta.items()
        }
        slope = sum(float((slopes[name] * way[name]).sum()) for name in theta)
        step = 1e-6
        up, down = (
            float(loss({n: item + sign * step * way[n] for n, item in theta.items()}))
            for sign in (1, -1)
        )
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-5)
        half = (up - float(loss(theta))) / (2 * step)  # the law can fail
        assert slope != pytest.approx(half, rel=1e-3)
