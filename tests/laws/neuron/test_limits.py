"""What no theta can make the neuron-level rule do."""

import math

import pytest
import torch
from torch import nn

import l2o
from l2o.rule.neuron_config import NeuronRuleConfig
from l2o.rule.neuron_rule import NeuronRule


@pytest.fixture(scope="module")
def network():
    """A perceptron with a map of every shape: wide, square, tall."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh()),
            nn.Linear(16, 20),
        ).double()
    graph = l2o.neural_graph(model, torch.zeros(2, 24, dtype=torch.float64))
    return graph, {name: p.detach() for name, p in model.named_parameters()}


def size(updates):
    return max(float(update.detach().abs().max()) for update in updates.values())


class TestZeroOutputs:
    def test_they_are_the_base(self, network, random_grads):
        graph, params = network
        rule = NeuronRule().double()
        grads = random_grads(params, 1)[0]
        state = rule.advance(rule.init_state(params), grads)
        base = rule.base(graph, params, grads, state)
        updates = rule(graph, params, grads, state)
        units = rule.units(graph)
        for name, update in updates.items():
            expected = -rule.step_size * units[name] * base[name]
            torch.testing.assert_close(update, expected, rtol=1e-9, atol=1e-12)

    def test_other_outputs_are_not(self, network, random_grads, build_rule):
        graph, params = network
        rule = build_rule()
        grads = random_grads(params, 1)[0]
        state = rule.advance(rule.init_state(params), grads)
        base = rule.base(graph, params, grads, state)
        update = rule(graph, params, grads, state)["0.weight"]
        ratio = update / base["0.weight"]
        assert ratio.std() > 0.01 * ratio.abs().mean()


@torch.no_grad()
def updates_after(rule, network, idle):
    """Return the size of the last update before gradients end, and of some after."""
    graph, params = network
    generator = torch.Generator().manual_seed(0)
    state, sizes = rule.init_state(params), {}
    for step in range(-10, max(idle) + 1):
        grads = {
            name: torch.randn(p.shape, generator=generator, dtype=p.dtype)
            * float(step < 0)
            for name, p in params.items()
        }
        state = rule.advance(state, grads)
        if step in (-1, *idle):
            sizes[step] = size(rule(graph, params, grads, state))
    return [sizes[step] / sizes[-1] for step in idle]


class TestZeroGradients:
    """Updates die out as Adam's do: 0.12 of them is left after 20 steps."""

    def test_updates_die_out(self, network):
        after_20, after_60 = updates_after(NeuronRule().double(), network, (20, 60))
        assert after_20 < 0.3
        assert after_60 < 0.01

    def test_with_random_theta(self, network, build_rule):
        after_20, after_60 = updates_after(build_rule(), network, (20, 60))
        assert after_20 < 0.5
        assert after_60 < 0.02

    @pytest.mark.parametrize("output", ["slow", "trust_power", "row_power"])
    def test_with_an_output_at_its_most(self, network, constant_rule, output):
        rule = constant_rule(NeuronRuleConfig(), **{output: 1.0})
        assert updates_after(rule, network, (60,))[0] < 0.05

    def test_none_at_all_from_the_start(self, network, build_rule):
        graph, params = network
        grads = {name: torch.zeros_like(p) for name, p in params.items()}
        rule = build_rule()
        state = rule.advance(rule.init_state(params), grads)
        assert size(rule(graph, params, grads, state)) == 0

    def test_the_law_can_fail(self, network):
        rule = NeuronRule(NeuronRuleConfig(signal_floor=0.0, fresh_floor=0.0)).double()
        assert updates_after(rule, network, (60,))[0] > 0.5


class TestDirection:
    """No entry moves against the mixture of momenta that the network chose."""

    @staticmethod
    def worst(rule, network, random_grads):
        graph, params = network
        # Where the network mixes nothing, the base is the mixture.
        with torch.no_grad():
            for weight in (
                rule.net.matrix_out.last.weight,
                rule.net.matrix_out.last.bias,
            ):
                weight[4:] = -weight[4:].abs() if weight.ndim == 1 else 0
        worst, plain = 0.0, NeuronRule(rule.config).double()
        state = rule.init_state(params)
        for grads in random_grads(params, 3):
            state = rule.advance(state, grads)
            base = plain.base(graph, params, grads, state)
            updates = rule(graph, params, grads, state)
            for name, update in updates.items():
                worst = max(worst, float((update * base[name]).detach().max()))
        return worst

    @pytest.mark.parametrize("seed", range(3))
    def test_no_entry_opposes_its_base(self, network, random_grads, build_rule, seed):
        assert self.worst(build_rule(seed=seed), network, random_grads) <= 0

    def test_the_law_can_fail(self, network, random_grads, build_rule, monkeypatch):
        class Linear(NeuronRule):
            """Scales of both signs."""

            def _factors(self, *args):
                factors = super()._factors(*args)
                return factors - factors.mean()

        assert self.worst(build_rule(kind=Linear), network, random_grads) > 0

    def test_shares_are_those_of_an_average(self, network, build_rule, random_grads):
        """With one gradient again and again, every mixture is that gradient."""
        graph, params = network
        grads = random_grads(params, 1)[0]
        rule = build_rule(map_direction="momentum")
        state = rule.init_state(params)
        for _ in range(5):
            state = rule.advance(state, grads)
        updates = rule(graph, params, grads, state)
        for name, update in updates.items():
            assert (update * grads[name] <= 0).all(), name


def cosine(first, second):
    return min(
        float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        for a, b in zip(first.values(), second.values(), strict=True)
    )


@torch.no_grad()
def rounded_cosine(rule, network, kind):
    """Return how alike updates of float32 and of bfloat16 gradients are, at worst."""
    graph, params = network
    params = {name: p.float() for name, p in params.items()}
    generator = torch.Generator().manual_seed(1)
    factors = {
        name: (
            torch.randn(p.shape[0], 2, generator=generator),
            torch.randn(2, p[0].numel(), generator=generator),
        )
        for name, p in params.items()
        if p.ndim > 1
    }
    states = [rule.init_state(params) for _ in range(2)]
    for step in range(30):
        grads = {}
        for name, p in params.items():
            grads[name] = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                left, right = factors[name]
                sizes = torch.randn(2, generator=generator)
                if kind == "fixed":
                    sizes = 1 + 0.1 * sizes
                elif kind == "alternating":
                    sizes = torch.tensor([1.0, 0.1]) * (-1) ** step
                grads[name] = left * sizes @ right
        narrow = {name: grad.bfloat16().float() for name, grad in grads.items()}
        both = grads, narrow
        states = [rule.advance(s, g) for s, g in zip(states, both, strict=True)]
    found = [rule(graph, params, g, s) for s, g in zip(states, both, strict=True)]
    return cosine(*found)


class TestRoundedGradients:
    """Gradients of rank two, rounded to bfloat16, give nearly the same update."""

    @pytest.mark.parametrize("kind", ["fixed", "random", "alternating"])
    def test_updates_are_alike(self, network, kind):
        assert rounded_cosine(NeuronRule(), network, kind) > 0.95

    def test_the_law_can_fail(self, network):
        config = NeuronRuleConfig(signal_floor=0.0, whitening_steps=5)
        assert rounded_cosine(NeuronRule(config), network, "random") < 0.9


@pytest.mark.parametrize("scale", [1e9, 2.0])
def test_the_scale_of_a_matrix_is_bounded(network, random_grads, constant_rule, scale):
    graph, params = network
    grads = random_grads(params, 1)[0]
    largest = []
    for said in (0.0, scale):
        rule = constant_rule(NeuronRuleConfig(max_log_scale=1.5), scale=said)
        state = rule.advance(rule.init_state(params), grads)
        largest.append(size(rule(graph, params, grads, state)))
    ratio = largest[1] / largest[0]
    expected = 1.5 * math.tanh(scale / 1.5)
    assert ratio == pytest.approx(math.exp(expected))
