"""A meta-gradient is the derivative of what its estimator says it is."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from oracles import ADAM, WHITENED, find_directions

from meta_train.estimator_config import (
    FirstOrderConfig,
    ImitationConfig,
    OneStepConfig,
)
from meta_train.estimators import add_meta_gradient
from meta_train.unroll import replay as replay_steps


def advance(run, steps):
    """Return what each step read, the batch it was taken on and the batch after it."""
    records, own, fresh = [], [], []
    for _ in range(steps):
        own.append(run.batch)
        records.append(run.step())
        run.measure()
        fresh.append(run.batch)
    return records, own, fresh


def first_order_loss(task, config, records, fresh, all_updates):
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
        loss = task.loss(params, batch)
        if index >= len(records) - counted:
            total = total + (loss.log() if config.objective == "log" else loss)
    return total / counted


def one_step_loss(task, config, records, own, all_updates):
    """The loss after each update, on the batch that the update was made of."""
    total = 0.0
    for record, batch, updates in zip(records, own, all_updates, strict=True):
        params = {name: record.params[name] + item for name, item in updates.items()}
        total = total + task.loss(params, batch)
    return total


@pytest.fixture
def theta_gradient(bound, task, flat):
    """Return autograd's gradient of an objective by theta."""

    def gradient(loss, records, batches, config):
        updates = [bound.updates(r.params, r.grads, r.state) for r in records]
        value = loss(task, config, records, batches, updates)
        weights = list(bound.rule.parameters())
        return flat(torch.autograd.grad(value, weights, allow_unused=True), bound.rule)

    return gradient


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
        self,
        bound,
        start,
        estimator,
        skipped,
        generator,
        estimated,
        assert_agree,
        theta_gradient,
    ):
        run, twin = start(), start()
        advance(run, skipped)
        advance(twin, skipped)
        found = estimated(estimator, run, 5, generator)
        records, _, fresh = advance(twin, 5)
        expected = theta_gradient(first_order_loss, records, fresh, estimator)
        assert_agree(found, expected)

    def test_without_discount_it_agrees_with_difference_quotients(
        self, bound, start, generator, estimated, task
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
                total = total + task.loss(params, batch)
            torch.nn.utils.vector_to_parameters(kept, weights)
            return total / len(records)

        with torch.no_grad():
            quotient = (value(1e-6) - value(-1e-6)) / 2e-6
        # Central differences of size 1e-6 are this exact and no more.
        torch.testing.assert_close(found @ way, quotient, rtol=1e-5, atol=1e-8)

    def test_windows_add_up(self, start, estimator, generator, estimated, assert_agree):
        run = start()
        parts = sum(estimated(estimator, run, 5, generator) for _ in range(3))
        whole = estimated(estimator, start(), 15, generator)
        assert_agree(parts, whole)

    def test_a_run_that_ends_early_has_a_short_window(
        self, bound, start, estimator, generator, assert_agree, theta_gradient, flat
    ):
        run = start(length=7)
        losses = add_meta_gradient(estimator, run, 15, generator)
        assert len(losses) == run.position == 7
        assert run.is_over
        found = flat([weight.grad for weight in bound.rule.parameters()], bound.rule)
        twin = start(length=7)
        expected = 0
        for steps in (5, 2):
            records, _, fresh = advance(twin, steps)
            expected = expected + theta_gradient(
                first_order_loss, records, fresh, estimator
            )
        bound.rule.zero_grad()
        assert_agree(found, expected)

    def test_the_law_can_fail(
        self,
        bound,
        start,
        estimator,
        generator,
        estimated,
        assert_agree,
        theta_gradient,
    ):
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
            expected = theta_gradient(first_order_loss, records, batches, config)
            with pytest.raises(AssertionError):
                assert_agree(found, expected)


class TestOneStep:
    estimator = OneStepConfig()

    def test_it_is_the_gradient_of_the_loss_after_each_update(
        self, bound, start, skipped, generator, estimated, assert_agree, theta_gradient
    ):
        run, twin = start(), start()
        advance(run, skipped)
        advance(twin, skipped)
        found = estimated(self.estimator, run, 5, generator)
        records, own, _ = advance(twin, 5)
        expected = theta_gradient(one_step_loss, records, own, self.estimator)
        assert_agree(found, expected)

    def test_it_agrees_with_difference_quotients(
        self, bound, start, generator, estimated, task
    ):
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
            return one_step_loss(task, self.estimator, records, own, updates)

        with torch.no_grad():
            quotient = (value(1e-6) - value(-1e-6)) / 2e-6
        # Central differences of size 1e-6 are this exact and no more.
        torch.testing.assert_close(found @ way, quotient, rtol=1e-5, atol=1e-8)

    def test_the_law_can_fail_on_the_next_batch(
        self, bound, start, generator, estimated, assert_agree, theta_gradient
    ):
        found = estimated(self.estimator, start(), 5, generator)
        records, _, fresh = advance(start(), 5)
        expected = theta_gradient(one_step_loss, records, fresh, self.estimator)
        with pytest.raises(AssertionError):
            assert_agree(found, expected)


def imitation_loss(task, config, records, first_position, all_updates):
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
        self, bound, start, skipped, generator, estimated, assert_agree, theta_gradient
    ):
        run, twin = start(), start()
        advance(run, skipped)
        advance(twin, skipped)
        found = estimated(self.estimator, run, 5, generator)
        records, _, _ = advance(twin, 5)
        expected = theta_gradient(imitation_loss, records, skipped, self.estimator)
        assert_agree(found, expected)

    def test_the_law_can_fail(
        self, bound, start, generator, estimated, assert_agree, theta_gradient
    ):
        found = estimated(self.estimator, start(), 5, generator)
        records, _, _ = advance(start(), 5)
        for wrong in ({"matrix_rate": 0.7}, {"vector_rate": 1.0}, {"warmup": 5}):
            expected = theta_gradient(
                imitation_loss, records, 0, replace(self.estimator, **wrong)
            )
            with pytest.raises(AssertionError):
                assert_agree(found, expected)
        expected = theta_gradient(imitation_loss, records, 1, self.estimator)
        with pytest.raises(AssertionError):
            assert_agree(found, expected)


class TestReplay:
    """A random part, weighted by the inverse of its share, is right on average."""

    @pytest.fixture
    def average(self, bound, start, task, flat):
        """Return the mean over every subset that can be drawn, and the whole."""

        def total(records, cotangents, share, seed):
            generator = torch.Generator().manual_seed(seed)
            bound.rule.zero_grad()
            replay_steps(bound, records, cotangents, share=share, generator=generator)
            return flat([weight.grad for weight in bound.rule.parameters()], bound.rule)

        def slopes(record, batch):
            return task.loss_and_grads(record.params, batch)[1]

        def build(share):
            records, own, _ = advance(start(), 4)
            cotangents = [
                partial(slopes, record, batch)
                for record, batch in zip(records, own, strict=True)
            ]
            drawn = [total(records, cotangents, share, seed) for seed in range(30)]
            found = {round(float(item.sum()) * 1e9): item for item in drawn}
            whole = total(records, cotangents, 1.0, 0)
            return len(found), sum(found.values()) / len(found), whole

        return build

    @pytest.mark.parametrize(("share", "subsets"), [(0.5, 6), (0.01, 4)])
    def test_it_is_unbiased(self, average, share, subsets, assert_agree):
        count, mean, whole = average(share)
        assert count == subsets
        assert_agree(mean, whole)

    def test_the_law_can_fail_without_the_weight(self, average, assert_agree):
        _, mean, whole = average(0.5)
        with pytest.raises(AssertionError):
            assert_agree(0.5 * mean, whole)

    def test_what_is_left_out_is_not_judged_either(self, start, generator, monkeypatch):
        run, calls = start(), []
        take = run.task.loss_and_grads

        def counted(params, batch, buffers):
            calls.append(batch)
            return take(params, batch, buffers)

        monkeypatch.setattr(run.task, "loss_and_grads", counted)
        add_meta_gradient(OneStepConfig(replay=0.5), run, 4, generator)
        assert len(calls) == 4 + 2

    def test_theta_gradients_are_added_to_what_is_there(
        self, bound, start, generator, estimated, assert_agree, flat
    ):
        estimator = OneStepConfig()
        once = estimated(estimator, start(), 2, generator)
        add_meta_gradient(estimator, start(), 2, generator)
        twice = flat([weight.grad for weight in bound.rule.parameters()], bound.rule)
        assert_agree(twice, 2 * once)
