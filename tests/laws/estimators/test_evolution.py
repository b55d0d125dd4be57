"""Evolution strategies are right on average, and exactly right along one change."""

from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from l2o import AbstractRule, neural_graph
from meta_train.es_lanes import PerturbedRuns
from meta_train.estimator_config import EvolutionConfig, TBPTTConfig
from meta_train.estimators import start_problem
from meta_train.unroll import ProblemStart, RuleOnGraph

KINDS = ("es", "pes", "nres")
LENGTH = 6
"""Inner steps of the toy's life."""
START = torch.tensor([1.0, -2.0], dtype=torch.float64)
GOAL = torch.tensor([2.5, 0.5], dtype=torch.float64)


class Drift(AbstractRule):
    """Adds theta itself, whatever the gradient: after t steps it has moved t theta."""

    step_size = 1.0

    def __init__(self):
        super().__init__()
        drift = torch.tensor([0.3, 0.2], dtype=torch.float64)
        self.drift = torch.nn.Parameter(drift)
        self.idle = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

    def check(self, graph):
        pass

    def init_state(self, params):
        return {name: {"step": param.new_zeros(())} for name, param in params.items()}

    def advance(self, state, grads):
        return state

    def forward(self, graph, params, grads, state):
        return {"weight": self.drift + 0.0 * grads["weight"]}


class Distance:
    """Half the squared distance from the goal: quadratic in theta at every step."""

    def init_params(self, seed):
        return {"weight": START.clone()}

    def batches(self, seed):
        batch = namedtuple("Batch", "inputs targets")(torch.zeros(1), torch.zeros(1))
        return type("Same", (), {"next": lambda self: batch})()

    def unseen_batches(self, seed, count):
        return [self.batches(seed).next() for _ in range(count)]

    def init_buffers(self, seed):
        return {}

    def loss_and_buffers(self, params, batch, buffers):
        return self.loss(params, batch), buffers

    def loss(self, params, batch, buffers=None):
        return (params["weight"] - GOAL).square().sum() / 2


@pytest.fixture
def toy():
    rule = Drift()
    rule.idle.requires_grad_(False)
    graph = neural_graph({"weight": START})
    return RuleOnGraph(rule, Distance(), compile=False, graph=graph)


def settings(kind, **changes):
    values = {"pairs": 20_000, "sigma": 0.1, "max_loss": 1e6, "stacked": True}
    return EvolutionConfig(kind=kind, **{**values, **changes})


def slopes(theta, steps):
    """Return d loss / d theta after each of these numbers of steps."""
    return [step * (START + step * theta - GOAL) for step in steps]


def closed_form(kind, theta, window):
    """Return the sum over windows of the derivative of each window's mean loss.

    What `es` sees of a window begins where the unchanged theta has led.
    """
    total = torch.zeros(2, dtype=torch.float64)
    for begin in range(0, LENGTH, window):
        steps = range(begin + 1, begin + window + 1)
        terms = slopes(theta, steps)
        if kind == "es":
            terms = [
                (step - begin) / step * term
                for step, term in zip(steps, terms, strict=True)
            ]
        total += torch.stack(terms).mean(0)
    return total


def whole_life(estimated, config, toy, window, change=lambda population: None, **start):
    """Return the sum of the estimates of a life, window by window."""
    generator = torch.Generator().manual_seed(0)
    problem = start_problem(
        config, ProblemStart(Distance(), toy, seed=0, length=LENGTH, **start)
    )
    total = torch.zeros(4, dtype=torch.float64)
    while not problem.is_over:
        total += estimated(config, problem, window, generator)
        change(problem)
    return total[:2]


# The error of the mean of 20,000 pairs is 1 % of the largest entry for one window and
# 2 % where the changes of windows add up; the seed is fixed.
TOLERANCE = 0.05


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_derivative(toy, estimated, assert_agree, kind, window):
    found = whole_life(estimated, settings(kind), toy, window)
    expected = closed_form(kind, toy.rule.drift.detach(), window)
    assert_agree(found, expected, tolerance=TOLERANCE)
    for wrong in (-found, 2 * found):  # the law can fail
        with pytest.raises(AssertionError):
            assert_agree(wrong, expected, tolerance=TOLERANCE)


class TestTruncation:
    def test_es_loses_what_lies_beyond_the_window(self, toy, estimated, assert_agree):
        theta = toy.rule.drift.detach()
        found = whole_life(estimated, settings("es"), toy, 1)
        with pytest.raises(AssertionError):
            assert_agree(found, closed_form("nres", theta, 1), tolerance=TOLERANCE)

    def test_pes_without_accumulation_would_fail(self, toy, estimated, assert_agree):
        def forget(population):
            population.memory.clear()

        theta = toy.rule.drift.detach()
        found = whole_life(estimated, settings("pes"), toy, 1, forget)
        with pytest.raises(AssertionError):
            assert_agree(found, closed_form("pes", theta, 1), tolerance=TOLERANCE)

    def test_nres_with_fresh_noise_would_fail(self, toy, estimated, assert_agree):
        def forget(population):
            population.noise.clear()

        theta = toy.rule.drift.detach()
        found = whole_life(estimated, settings("nres"), toy, 1, forget)
        with pytest.raises(AssertionError):
            assert_agree(found, closed_form("nres", theta, 1), tolerance=TOLERANCE)


class TestMetaLoss:
    def test_the_end_of_a_life_counts_as_it_is_told(self, toy, estimated, assert_agree):
        """Of six steps the last two are the end; their mean makes a quarter."""
        theta = toy.rule.drift.detach()
        config = settings("nres", final_share=0.25, tail=1 / 3)
        found = whole_life(estimated, config, toy, LENGTH)
        terms = torch.stack(slopes(theta, range(1, LENGTH + 1)))
        expected = 0.75 * terms.mean(0) + 0.25 * terms[-2:].mean(0)
        assert_agree(found, expected, tolerance=TOLERANCE)
        with pytest.raises(AssertionError):
            assert_agree(found, terms.mean(0), tolerance=TOLERANCE)

    def test_the_end_of_a_window_counts_where_it_is_measured(
        self, toy, estimated, assert_agree
    ):
        """Latest weights are as many thetas from the start as there were steps."""
        theta = toy.rule.drift.detach()
        config = settings("nres", end_batches=1)
        found = whole_life(estimated, config, toy, 3)
        expected = sum(slopes(theta, range(3, LENGTH + 1, 3)))
        assert_agree(found, expected, tolerance=TOLERANCE)
        averaged = whole_life(estimated, config, toy, 3, is_averaged=True)
        with pytest.raises(AssertionError):
            assert_agree(averaged, expected, tolerance=TOLERANCE)

    def test_the_averaged_weights_count_where_it_is_told(
        self, toy, estimated, assert_agree
    ):
        """They are as many thetas from the start as the average of the steps says."""
        theta = toy.rule.drift.detach()
        config = settings("nres", end_batches=1)
        found = whole_life(estimated, config, toy, 3, is_averaged=True)
        mean, expected = 0.0, torch.zeros(2, dtype=torch.float64)
        for step in range(1, LENGTH + 1):
            mean += (step - mean) / (1 + (step - 1) / 10)
            if step % 3 == 0:
                expected += mean * (START + mean * theta - GOAL)
        assert_agree(found, expected, tolerance=TOLERANCE)
        latest = closed_form("nres", theta, 3)
        with pytest.raises(AssertionError):
            assert_agree(found, latest, tolerance=TOLERANCE)

    def test_losses_are_bounded(self, toy, generator, estimated):
        """Above the bound nothing is left to compare."""
        toy.rule.drift.data.mul_(-100)
        config = settings("nres", pairs=2, sigma=1e-3, max_loss=1.5)
        problem = start_problem(
            config, ProblemStart(Distance(), toy, seed=0, length=LENGTH)
        )
        assert estimated(config, problem, 1, generator).abs().max() == 0
        assert problem.has_diverged
        assert problem.is_over

    def test_one_lost_lane_counts_as_the_bound(self, toy, generator):
        config = settings("nres", pairs=1, max_loss=1.5)
        problem = start_problem(
            config, ProblemStart(Distance(), toy, seed=0, length=LENGTH)
        )
        problem.draw_noise(generator)
        problem.params["weight"][0] = torch.nan
        first = float(problem.first_losses[0])
        problem.step(problem.changed_theta(0.1))
        assert problem.is_lost.tolist() == [True, False]
        assert not problem.is_over
        assert first == pytest.approx(float((START - GOAL).square().sum() / 2))


@pytest.fixture
def population(task, bound):
    """Build pairs of lanes of a real rule on a quadratic."""

    def build(**changes):
        rule = changes.pop("bound", bound)
        start = ProblemStart(task, rule, seed=3, length=100)
        return PerturbedRuns(start, **{"pairs": 3, **changes})

    return build


class TestRealRules:
    def test_along_its_change_it_is_the_slope_that_autograd_finds(
        self, population, start, estimated, generator, assert_agree, flat
    ):
        """Two estimators that share no line of code agree."""
        config = EvolutionConfig(kind="nres", pairs=3, sigma=1e-6, max_loss=1e6)
        problem = population()
        found = estimated(config, problem, 5, generator)
        autograd = TBPTTConfig(window=5, objective="mean")
        gradient = estimated(autograd, start(), 5, generator)
        changes = [
            flat([problem.noise[n][pair] for n in problem.noise], problem.bound.rule)
            for pair in range(3)
        ]
        expected = sum(change * (change @ gradient) for change in changes) / 3
        # Differences over 2e-6 have lost ten digits of sixteen.
        assert_agree(found, expected, tolerance=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_stacked_lanes_are_lanes_in_turn(
        self, population, estimated, assert_agree, kind
    ):
        config = EvolutionConfig(kind=kind, pairs=3, objective="log", final_share=0.5)
        found = {}
        for stacked in (False, True):
            generator = torch.Generator().manual_seed(0)
            problem = population(stacked=stacked, has_centre=kind == "es")
            found[stacked] = [estimated(config, problem, 3, generator) for _ in "ab"]
        for one, other in zip(found[True], found[False], strict=True):
            assert_agree(one, other)

    @pytest.mark.compile
    @pytest.mark.parametrize("bound", ["deep-ff"], indirect=True)
    @pytest.mark.parametrize("stacked", [False, True])
    def test_compiled_lanes_are_lanes(
        self, population, task, bound, estimated, assert_agree, stacked
    ):
        found = []
        for compile in (False, True):
            other = RuleOnGraph(bound.rule, task, compile=compile, graph=bound.graph)
            problem = population(stacked=stacked, bound=other)
            generator = torch.Generator().manual_seed(0)
            config = EvolutionConfig(pairs=3)
            found.append(estimated(config, problem, 3, generator))
        assert_agree(*found, tolerance=1e-7)  # in another order of sums

    def test_weights_that_are_not_trained_stay_out(
        self, population, estimated, generator
    ):
        problem = population()
        rule = problem.bound.rule
        names = [name for name, _ in rule.named_parameters()]
        for name, weight in rule.named_parameters():
            weight.requires_grad_(name == names[-1])
        config = EvolutionConfig(pairs=3)
        assert estimated(config, problem, 3, generator).abs().max() > 0
        assert list(problem.noise) == names[-1:]
        assert all(w.grad is None for n, w in rule.named_parameters() if n != names[-1])

    def test_the_centre_is_what_an_inner_run_does(
        self, population, start, estimated, generator
    ):
        config = EvolutionConfig(kind="es", pairs=3)
        problem, run = population(has_centre=True), start()
        for _ in range(2):
            estimated(config, problem, 4, generator)
        for _ in range(8):
            run.step()
            run.measure()
        for name, param in run.params.items():
            for lane in problem.params[name]:
                torch.testing.assert_close(lane, param, rtol=1e-9, atol=0)

    def test_pairs_are_opposite(self, population, generator):
        problem = population(has_centre=True)
        problem.draw_noise(generator)
        theta = problem.changed_theta(0.5)
        for name, weight in problem.bound.rule.named_parameters():
            plus, minus, centre = theta[name].split([3, 3, 1])
            torch.testing.assert_close(plus + minus, (2 * weight).expand_as(plus))
            assert torch.equal(centre[0], weight)

    def test_the_settings_reach_the_population(self, task, bound):
        config = EvolutionConfig(kind="es", pairs=2)
        problem = start_problem(config, ProblemStart(task, bound, seed=3, length=9))
        assert (problem.num_lanes, problem.length) == (5, 9)
        problem = start_problem(
            replace(config, kind="pes"), ProblemStart(task, bound, seed=3, length=9)
        )
        assert problem.num_lanes == 4
