import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from benchmarks import protocol
from benchmarks.opponents import build_opponent
from benchmarks.protocol import train
from l2o import NeuralGraphOpt
from optimizees import FunctionalTask, image_task
from optimizees.task import cross_entropy


def run(task, build_optimizer, **settings):
    settings = {"seed": 3, "steps": 6, "split": "test"} | settings
    return train(task, build_optimizer, **settings)


def build_sgd(lr):
    return lambda model: SGD(model.parameters(), lr=lr)


class Breaking(Optimizer):
    """Sets every parameter to `value` at the given step."""

    def __init__(self, params, value, at):
        super().__init__(params, {})
        self.value, self.at, self.count = value, at, 0

    def step(self, closure=None):
        self.count += 1
        if self.count == self.at:
            for param in self.param_groups[0]["params"]:
                param.data.fill_(self.value)


def build_breaking(value, at):
    return lambda model: Breaking(model.parameters(), value, at)


def test_a_curve_has_a_loss_for_every_step_and_a_final_score(task):
    curve = run(task, build_sgd(0.1), curve_every=4)
    assert len(curve.losses) == 6
    assert curve.curve == [
        pytest.approx(sum(curve.losses[:4]) / 4),
        pytest.approx(sum(curve.losses[4:]) / 2),
    ]
    (score,) = curve.scores
    assert score.step == 6
    assert score.train_loss == pytest.approx(sum(curve.losses) / 6)
    assert 0 <= score.accuracy <= 1
    assert not curve.diverged
    assert curve.optimizer_ms > 0
    assert curve.loss_ms > 0


def test_every_optimizer_gets_the_same_weights_and_batches(task, rule_file):
    still = [
        run(task, build_sgd(0.0)).losses,
        run(task, lambda model: Adam(model.parameters(), lr=0.0)).losses,
        run(
            task,
            lambda m: NeuralGraphOpt(m.parameters(), lr=0.0, rule=rule_file),
        ).losses,
    ]
    assert still[0] == still[1] == still[2]
    batches, params = task.batches(3), FunctionalTask(task).init_params(3)
    loss = FunctionalTask(task).loss
    expected = [float(loss(params, batches.next())) for _ in range(6)]
    assert still[0] == pytest.approx(expected)


def test_the_averaged_weights_are_evaluated_and_the_others_trained(task):
    evaluated, optimizers = [], []

    def build(model):
        optimizer = build_opponent("schedule-free", 0.1, model, steps=6)
        optimizers.append((optimizer, model))
        return optimizer

    def measure(outputs, targets):
        if not torch.is_grad_enabled():  # the one batch of an evaluation
            (_, model) = optimizers[0]
            evaluated.append([param.detach().clone() for param in model.parameters()])
        return cross_entropy(outputs, targets)

    watched = replace(task, criterion=measure)
    curve = run(watched, build, evaluate_at=(3,))
    ((optimizer, model),) = optimizers
    assert optimizer.param_groups[0]["train_mode"]
    trained = [param.clone() for param in model.parameters()]
    optimizer.eval()
    for averaged, expected, other in zip(
        evaluated[-1], model.parameters(), trained, strict=True
    ):
        torch.testing.assert_close(averaged, expected)
        assert not torch.allclose(averaged, other)
    assert len(evaluated) == len(curve.scores) == 2


def test_a_rule_with_averages_is_trained_as_ever_and_evaluated_at_them(task, rule_file):
    def build(average):
        return lambda model: NeuralGraphOpt(
            model.parameters(), rule=rule_file, average=average
        )

    plain, averaged = (run(task, build(average)) for average in (False, True))
    assert averaged.losses == plain.losses
    assert averaged.scores[0].loss != plain.scores[0].loss


def test_averaged_weights_have_running_statistics_of_their_own(task):
    """And the network in training keeps its own."""

    def build_model():
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 6), nn.BatchNorm1d(6), nn.Linear(6, 10)
        )

    normed, models = replace(task, build_model=build_model), []

    def build(model):
        models.append(model)
        return NeuralGraphOpt(model.parameters(), rule="ff", average=True)

    run(normed, build)
    (model,) = models
    assert model[2].num_batches_tracked == 6
    copied = protocol._with_statistics(normed, model, 3)
    assert not torch.equal(copied[2].running_mean, model[2].running_mean)
    assert model[2].num_batches_tracked == 6


def test_another_seed_gives_other_losses(task):
    first = run(task, build_sgd(0.0))
    assert run(task, build_sgd(0.0), seed=4).losses != first.losses


def test_training_leaves_the_global_generator_alone(task):
    before = torch.get_rng_state()
    run(task, build_sgd(0.1))
    assert torch.equal(torch.get_rng_state(), before)


def test_scores_come_where_they_are_asked_for(task):
    curve = run(task, build_sgd(0.1), evaluate_at=(2, 6))
    assert [score.step for score in curve.scores] == [2, 6]
    assert curve.scores[0].train_loss == pytest.approx(sum(curve.losses[:2]) / 2)
    short = run(task, build_sgd(0.1), steps=2)
    assert curve.scores[0] == short.scores[0]


def test_the_training_loss_of_a_score_is_that_of_the_last_50_steps(task):
    curve = run(task, build_sgd(0.1), steps=60)
    assert curve.scores[0].train_loss == pytest.approx(sum(curve.losses[10:]) / 50)


def test_a_loss_that_is_not_finite_is_a_divergence_without_an_accuracy(task):
    curve = run(task, build_breaking(math.nan, at=3), evaluate_at=(2,))
    assert curve.diverged
    assert len(curve.losses) == 4
    assert math.isnan(curve.losses[-1])
    before, after = curve.scores
    assert before.accuracy is not None
    assert (after.train_loss, after.loss, after.accuracy) == (None, None, None)
    assert curve.curve == [None]


def test_a_diverged_run_with_finite_weights_keeps_its_accuracy(task, images):
    broken = replace(images, images=images.images.clone())
    broken.images[:30] = math.nan
    build, held_out = task.build_model, {"test": images}
    task = image_task("broken", build, broken, batch_size=4, held_out=held_out)
    curve = run(task, build_sgd(0.1), steps=15)
    assert curve.diverged
    (score,) = curve.scores
    assert score.train_loss is None
    assert score.accuracy is not None


def test_logits_that_are_no_numbers_have_no_accuracy(task):
    curve = run(task, build_breaking(1e30, at=6))
    assert curve.diverged
    assert (curve.scores[0].loss, curve.scores[0].accuracy) == (None, None)


def test_weights_that_break_in_the_last_step_are_a_divergence(task):
    curve = run(task, build_breaking(math.inf, at=6))
    assert all(map(math.isfinite, curve.losses))
    assert curve.diverged
    assert curve.scores[0].accuracy is None


@pytest.mark.parametrize("name", ["steps", "curve_every"])
def test_counts_must_be_positive(task, name):
    with pytest.raises(ValueError, match="Choose positive numbers"):
        run(task, build_sgd(0.1), **{name: 0})


def test_evaluations_must_lie_within_the_run(task):
    with pytest.raises(ValueError, match="train for longer"):
        run(task, build_sgd(0.1), evaluate_at=(7,))


def test_a_bar_is_drawn_on_a_terminal_only(task, capsys):
    run(task, build_sgd(0.1), label="run")
    assert capsys.readouterr().err == ""
