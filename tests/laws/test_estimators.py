"""A meta-gradient is the derivative of what its estimator says it is."""

from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from l2o.optim.directions import ADAM, WHITENED, find_directions
from meta_train.config import FirstOrderConfig, ImitationConfig, OneStepConfig
from meta_train.estimators import add_meta_gradient
from meta_train.unroll import InnerRun, RuleOnGraph
from meta_train.unroll import replay as replay_steps

Batch = namedtuple("Batch", "inputs targets")


class Targets:
    """An endless stream of noisy targets, decided by its seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def next(self):
        noise = torch.randn(9, generator=self.generator, dtype=torch.float64)
        return Batch(torch.zeros(0), 3 + 0.1 * noise)


class Quadratic:
    """Half a weighted squared distance from each batch's targets, in float64."""

    curvature = torch.arange(1.0, 10.0, dtype=torch.float64) / 3

    def init_params(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return {
            "0.weight": torch.randn(3, 2, generator=generator, dtype=torch.float64),
            "0.bias": torch.randn(3, generator=generator, dtype=torch.float64),
        }

    def batches(self, seed):
        return Targets(seed)

    def loss(self, params, batch):
        flat = torch.cat([param.flatten() for param in params.values()])
        return (self.curvature * (flat - batch.targets).square()).sum() / 2

    def loss_and_grads(self, params, batch):
        inputs = {name: item.detach().requires_grad_() for name, item in params.items()}
        loss = self.loss(inputs, batch)
        grads = torch.autograd.grad(loss, list(inputs.values()))
        return loss.detach(), dict(zip(inputs, grads, strict=True))


@pytest.fixture(params=["pooled-shared", "deep-ff"])
def bound(request, configs, random_rule):
    """A graph net and FF: estimators know nothing else about a rule."""
    rule = random_rule(configs[request.param])
    return RuleOnGraph(rule, Quadratic(), compile=False)


@pytest.fixture
def start(bound):
    """Build the same inner run again."""

    def build(length=100):
        return InnerRun(Quadratic(), bound, seed=3, length=length)

    return build


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=[False, True], ids=["first", "later"])
def skipped(request):
    """Inner steps before the window: at later ones the state is not zero."""
    return 3 if request.param else 0


def advance(run, steps):
    """Return what each step read, the batch it was taken on and the batch after it."""
    records, own, fresh = [], [], []
    for _ in range(steps):
        own.append(run.batch)
        records.append(run.step())
        run.measure()
        fresh.append(run.batch)
    return records, own, fresh


def first_order_loss(config, records, fresh, all_updates):
    """Losses on fresh batches with features held constant, as a function of theta.

    What each update changes is passed on to later parameters, discounted.
    """
    total, change = 0.0, dict.fromkeys(records[0].params, 0.0)
    counted = max(1, round(config.tail * len(records)))
    steps = zip(records, fresh, all_updates, strict=True)
    for index, (record, batch, updates) in enumerate(steps):
        change = {
            name: config.discount * change[name] + item - item.detach()
            for name, item in updates.items()
        }
        params = {
            name: record.params[name] + item.detach() + change[name]
            for name, item in updates.items()
        }
        loss = Quadratic().loss(params, batch)
        if index >= len(records) - counted:
            total = total + (loss.log() if config.objective == "log" else loss)
    return total / counted


def one_step_loss(config, records, own, all_updates):
    """The loss after each update, on the batch that the update was made of."""
    total = 0.0
    for record, batch, updates in zip(records, own, all_updates, strict=True):
        params = {name: record.params[name] + item for name, item in updates.items()}
        total = total + Quadratic().loss(params, batch)
    return total


def theta_gradient(bound, loss, records, batches, config):
    """Return autograd's gradient of an objective by theta."""
    updates = [bound.updates(item.params, item.grads, item.state) for item in records]
    value = loss(config, records, batches, updates)
    return flat(
        torch.autograd.grad(value, list(bound.rule.parameters()), allow_unused=True),
        bound.rule,
    )


def flat(grads, rule):
    pairs = zip(grads, rule.parameters(), strict=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]
    )


def estimated(config, run, steps, generator):
    """Return the meta-gradient that the estimator adds."""
    run.bound.rule.zero_grad()
    add_meta_gradient(config, run, steps, generator)
    return flat([weight.grad for weight in run.bound.rule.parameters()], run.bound.rule)


def assert_agree(found, expected):
    assert expected.abs().max() > 0
    # Relative to the largest entry: 1e-9, as in every law.
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-9 * float(expected.abs().max())
    )


FIRST_ORDER = {
    "mean": FirstOrderConfig(window=5, replay=1.0, objective="mean"),
    "log": FirstOrderConfig(window=5, replay=1.0, objective="log"),
    "discounted": FirstOrderConfig(window=5, replay=1.0, discount=0.8),
    "tail": FirstOrderConfig(window=5, replay=1.0, objective="mean", tail=0.4),
    "discounted tail": FirstOrderConfig(window=5, replay=1.0, discount=0.8, tail=0.01),
}


class TestFirstOrder:
    @pytest.fixture(params=FIRST_ORDER)
    def estimator(self, request):
        return FIRST_ORDER[request.param]

    def test_it_is_the_gradient_of_the_linearised_losses(
        self, bound, start, estimator, skipped, generator
    ):
        run, twin = start(), start()
        advance(run, skipped)
        advance(twin, skipped)
        found = estimated(estimator, run, 5, generator)
        records, _, fresh = advance(twin, 5)
        expected = theta_gradient(bound, first_order_loss, records, fresh, estimator)
        assert_agree(found, expected)

    def test_without_discount_it_agrees_with_difference_quotients(
        self, bound, start, generator
    ):
        """With features held constant, nothing is left out: it is the true slope."""
        estimator = FIRST_ORDER["mean"]
        found = estimated(estimator, start(), 5, generator)
        records, _, fresh = advance(start(), 5)
        way = torch.randn(len(found), generator=generator, dtype=torch.float64)
        way = way / way.norm()

        def value(distance):
            weights = list(bound.rule.parameters())
            kept = torch.nn.utils.parameters_to_vector(weights)
            torch.nn.utils.vector_to_parameters(kept + distance * way, weights)
            total, params = 0.0, dict(records[0].params)
            for record, batch in zip(records, fresh, strict=True):
                updates = bound.updates(record.params, record.grads, record.state)
                params = {name: params[name] + updates[name] for name in params}
                total = total + Quadratic().loss(params, batch)
            torch.nn.utils.vector_to_parameters(kept, weights)
            return total / len(records)

        with torch.no_grad():
            quotient = (value(1e-6) - value(-1e-6)) / 2e-6
        # Central differences of size 1e-6 are this exact and no more.
        torch.testing.assert_close(found @ way, quotient, rtol=1e-5, atol=1e-8)

    def test_windows_add_up(self, start, estimator, generator):
        run = start()
        parts = sum(estimated(estimator, run, 5, generator) for _ in range(3))
        whole = estimated(estimator, start(), 15, generator)
        assert_agree(parts, whole)

    def test_a_run_that_ends_early_has_a_short_window(
        self, bound, start, estimator, generator
    ):
        run = start(length=7)
        progress = add_meta_gradient(estimator, run, 15, generator)
        assert len(progress.losses) == run.position == 7
        assert run.is_over
        found = flat([weight.grad for weight in bound.rule.parameters()], bound.rule)
        twin = start(length=7)
        expected = 0
        for steps in (5, 2):
            records, _, fresh = advance(twin, steps)
            expected = expected + theta_gradient(
                bound, first_order_loss, records, fresh, estimator
            )
        bound.rule.zero_grad()
        assert_agree(found, expected)

    def test_the_law_can_fail(self, bound, start, estimator, generator):
        found = estimated(estimator, start(), 5, generator)
        records, own, fresh = advance(start(), 5)
        others = [
            replace(estimator, discount=0.9),
            replace(estimator, tail=0.6),
            replace(
                estimator, objective="log" if estimator.objective == "mean" else "mean"
            ),
        ]
        wrong = [(other, fresh) for other in others] + [(estimator, own)]
        for config, batches in wrong:
            expected = theta_gradient(bound, first_order_loss, records, batches, config)
            with pytest.raises(AssertionError):
                assert_agree(found, expected)


class TestOneStep:
    estimator = OneStepConfig()

    def test_it_is_the_gradient_of_the_loss_after_each_update(
        self, bound, start, skipped, generator
    ):
        run, twin = start(), start()
        advance(run, skipped)
        advance(twin, skipped)
        found = estimated(self.estimator, run, 5, generator)
        records, own, _ = advance(twin, 5)
        expected = theta_gradient(bound, one_step_loss, records, own, self.estimator)
        assert_agree(found, expected)

    def test_it_agrees_with_difference_quotients(self, bound, start, generator):
        found = estimated(self.estimator, start(), 3, generator)
        records, own, _ = advance(start(), 3)
        way = torch.randn(len(found), generator=generator, dtype=torch.float64)
        way = way / way.norm()

        def value(distance):
            weights = list(bound.rule.parameters())
            kept = torch.nn.utils.parameters_to_vector(weights)
            torch.nn.utils.vector_to_parameters(kept + distance * way, weights)
            updates = [bound.updates(r.params, r.grads, r.state) for r in records]
            torch.nn.utils.vector_to_parameters(kept, weights)
            return one_step_loss(self.estimator, records, own, updates)

        with torch.no_grad():
            quotient = (value(1e-6) - value(-1e-6)) / 2e-6
        # Central differences of size 1e-6 are this exact and no more.
        torch.testing.assert_close(found @ way, quotient, rtol=1e-5, atol=1e-8)

    def test_the_law_can_fail_on_the_next_batch(self, bound, start, generator):
        found = estimated(self.estimator, start(), 5, generator)
        records, _, fresh = advance(start(), 5)
        expected = theta_gradient(bound, one_step_loss, records, fresh, self.estimator)
        with pytest.raises(AssertionError):
            assert_agree(found, expected)


def imitation_loss(config, records, first_position, all_updates):
    """Squared distance from the teacher, over the size of both held constant."""
    total = 0.0
    for index, (record, updates) in enumerate(zip(records, all_updates, strict=True)):
        time = first_position + index + 1
        rate = 0.01 * min(1, time / config.warmup)
        rate = rate / (1 + (time / config.decay_steps) ** config.decay_power)
        for name, update in updates.items():
            steps, _ = find_directions(record.grads[name], record.state[name])
            if update.ndim == 2:
                target = -rate * config.matrix_rate * steps[WHITENED]
            else:
                target = -rate * config.vector_rate * steps[ADAM]
            size = target.square().sum() + update.detach().square().sum() + 1e-12
            total = total + (update - target).square().sum() / (2 * size)
    return total


class TestImitation:
    estimator = ImitationConfig(
        matrix_rate=0.6, vector_rate=0.9, warmup=4, decay_steps=5.0, replay=1.0
    )

    def test_it_is_the_gradient_of_the_relative_distance(
        self, bound, start, skipped, generator
    ):
        run, twin = start(), start()
        advance(run, skipped)
        advance(twin, skipped)
        found = estimated(self.estimator, run, 5, generator)
        records, _, _ = advance(twin, 5)
        expected = theta_gradient(
            bound, imitation_loss, records, skipped, self.estimator
        )
        assert_agree(found, expected)

    def test_the_law_can_fail(self, bound, start, generator):
        found = estimated(self.estimator, start(), 5, generator)
        records, _, _ = advance(start(), 5)
        for wrong in ({"matrix_rate": 0.7}, {"vector_rate": 1.0}, {"warmup": 5}):
            expected = theta_gradient(
                bound, imitation_loss, records, 0, replace(self.estimator, **wrong)
            )
            with pytest.raises(AssertionError):
                assert_agree(found, expected)
        expected = theta_gradient(bound, imitation_loss, records, 1, self.estimator)
        with pytest.raises(AssertionError):
            assert_agree(found, expected)


class TestReplay:
    """A random part, weighted by the inverse of its share, is right on average."""

    def average(self, bound, start, share, weight=1.0):
        """Return the mean over every subset that can be drawn, and the whole."""
        records, own, _ = advance(start(), 4)
        cotangents = [
            Quadratic().loss_and_grads(record.params, batch)[1]
            for record, batch in zip(records, own, strict=True)
        ]
        found = {}
        for seed in range(30):
            generator = torch.Generator().manual_seed(seed)
            bound.rule.zero_grad()
            replay_steps(bound, records, cotangents, share=share, generator=generator)
            grads = [weight.grad for weight in bound.rule.parameters()]
            total = flat(grads, bound.rule)
            found[round(float(total.sum()) * 1e9)] = total
        bound.rule.zero_grad()
        replay_steps(bound, records, cotangents, share=1.0, generator=generator)
        whole = flat([weight.grad for weight in bound.rule.parameters()], bound.rule)
        return len(found), weight * sum(found.values()) / len(found), whole

    @pytest.mark.parametrize(("share", "subsets"), [(0.5, 6), (0.01, 4)])
    def test_it_is_unbiased(self, bound, start, share, subsets):
        count, mean, whole = self.average(bound, start, share)
        assert count == subsets
        assert_agree(mean, whole)

    def test_the_law_can_fail_without_the_weight(self, bound, start):
        _, mean, whole = self.average(bound, start, 0.5, weight=0.5)
        with pytest.raises(AssertionError):
            assert_agree(mean, whole)

    def test_theta_gradients_are_added_to_what_is_there(self, bound, start, generator):
        estimator = OneStepConfig()
        once = estimated(estimator, start(), 2, generator)
        add_meta_gradient(estimator, start(), 2, generator)
        twice = flat([weight.grad for weight in bound.rule.parameters()], bound.rule)
        assert_agree(twice, 2 * once)
