"""What the optimizer writes in place is what the pure steps return, bit for bit."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from l2o import Hyper, SafetyConfig, guarded_step, learned_step, neural_graph
from l2o.optim import in_place
from l2o.optim.in_place import IN_PLACE, InPlaceMemory
from l2o.rule.step import complete_state, take_step

SAFETY = SafetyConfig(max_update=1.5, max_gradient=1e3)
"""Close enough that some updates are clipped, and gradients scaled."""


@pytest.fixture(params=[True, False], ids=["asked", "not asked"])
def device(request, monkeypatch):
    """As on a CPU, and as on an accelerator, which is not asked for its numbers."""
    if not request.param:
        monkeypatch.setattr(InPlaceMemory, "may_ask", lambda self, device: False)


step_in_place = partial(take_step, memory=IN_PLACE)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)


@torch.no_grad()
def compare(rule, params, all_grads, safety=SAFETY):
    """Walk along the gradients twice, and compare at each step."""
    graph = neural_graph(params)
    hyper = {name: Hyper(lr=0.5, weight_decay=0.1) for name in params}
    written = {name: param.clone() for name, param in params.items()}
    kept, state = {}, {}
    for grads in all_grads:
        before = {name: grad.clone() for name, grad in grads.items()}
        start = complete_state(rule, written, kept)
        if safety is None:
            params, state = learned_step(rule, graph, params, grads, state, hyper)
            _, new, _ = step_in_place(rule, graph, written, grads, start, hyper)
        else:
            params, state, report = guarded_step(
                rule, graph, params, grads, state, hyper, safety
            )
            _, new, seen = step_in_place(
                rule, graph, written, grads, start, hyper, safety=safety
            )
            assert seen.is_sound == report.is_sound
            assert_same(seen.update_sizes, report.update_sizes)
        kept |= {name: new[name] for name in grads}
        assert_same(written, params)
        assert kept.keys() == state.keys()
        for name, item in state.items():
            assert_same(kept[name], item)
        assert_same(grads, before)


@pytest.fixture
def ff(configs, random_rule):
    """The rule that is fastest."""
    return random_rule(configs["deep-ff"])


@pytest.fixture
def grads(mlp, random_grads):
    """Five steps of them."""
    return random_grads(mlp.params, steps=5)


class TestInPlace:
    def test_every_network(self, configs, random_rule, network, random_grads):
        rule = random_rule(configs["pooled-shared"])
        compare(rule, network.params, random_grads(network.params))

    @pytest.mark.parametrize("safety", [None, SafetyConfig()], ids=["free", "guarded"])
    def test_with_and_without_the_net(self, small_rule, mlp, grads, device, safety):
        compare(small_rule, mlp.params, grads, safety)

    @pytest.mark.parametrize("value", [math.nan, -math.inf, 1e20])
    def test_gradients_that_are_not_to_be_trusted(self, ff, mlp, grads, device, value):
        next(iter(grads[2].values()))[0] = value
        compare(ff, mlp.params, grads)

    def test_updates_that_are_not_finite(self, ff, mlp, grads, device):
        """Nothing moves; the state has seen the gradients, which were fine."""
        params = {name: param.clone() for name, param in mlp.params.items()}
        next(iter(params.values())).fill_(math.nan)
        hyper = dict.fromkeys(params, Hyper())
        start = complete_state(ff, params, {})
        args = (ff, neural_graph(params), params, grads[0])
        with torch.no_grad():
            _, state, report = step_in_place(*args, start, hyper, safety=SAFETY)
        assert not report.is_sound
        assert all(state[name]["step"] == 1 for name in grads[0])
        compare(ff, params, grads)

    def test_missing_gradients(self, ff, mlp, grads, device):
        first, second = list(mlp.params)[:2]
        del grads[0][first], grads[3][second]
        compare(ff, mlp.params, grads)

    def test_long_and_strided_tensors(self, ff, random_grads, device, monkeypatch):
        monkeypatch.setattr(in_place, "PIECE_ENTRIES", 7)
        generator = torch.Generator().manual_seed(0)
        params = {
            "0.weight": torch.randn(5, 4, generator=generator),
            "0.bias": torch.randn(5, generator=generator).double(),
            "1.weight": torch.randn(5, 3, generator=generator).T,
        }
        grads = random_grads(params)
        for step in grads:
            step["0.weight"] = step["0.weight"].T.contiguous().T
        compare(ff, params, grads)

    @pytest.mark.parametrize("wrong", [0.99, 0.9991])
    def test_the_law_can_fail(self, ff, mlp, grads, monkeypatch, wrong):
        advance = in_place.advance_in_place

        def wrongly(averages, *args):
            advance(replace(averages, second_moment_decay=wrong), *args)

        monkeypatch.setattr(in_place, "advance_in_place", wrongly)
        with pytest.raises(AssertionError):
            compare(ff, mlp.params, grads)
