from dataclasses import replace

import pytest

from meta_train.estimator_config import ImitationConfig
from meta_train.loop import MetaTrainer
from meta_train.teacher import Teacher
from meta_train.teacher_tuning import tuned
from meta_train.unroll import InnerRun, ProblemStart, RuleOnGraph

TASK = {"name": "fashion-mlp", "image_size": 7, "batch_size": 16}
RATES = (0.01, 1.0, 300.0)
CONFIG = ImitationConfig(matrix_rate=0.5, rates=RATES, trial_steps=40, warmup=1)
VALUES = {"kind": "imitation", "matrix_rate": 0.5, "rates": RATES, "trial_steps": 40}


@pytest.fixture
def builder(tiny, tmp_path):
    return MetaTrainer(tiny(tasks=[TASK]), tmp_path).builder


def final_loss(config, builder):
    (task_config,) = builder.config.tasks
    task, graph = builder.task(task_config), builder.bound(task_config).graph
    bound = RuleOnGraph(Teacher(config), task, compile=False, graph=graph)
    run = InnerRun(ProblemStart(task, bound, seed=0, length=config.trial_steps))
    losses = run.advance(config.trial_steps)
    return sum(losses[-8:]) / 8, run.has_diverged


def test_the_rate_with_the_lowest_loss_is_taken(builder):
    (task_config,) = builder.config.tasks
    found = tuned(CONFIG, builder.task(task_config), builder.bound(task_config))
    assert found == replace(CONFIG, rates=(), matrix_rate=0.5)
    (slow, _), (best, _), (_, fast_diverged) = (
        final_loss(replace(CONFIG, matrix_rate=rate * 0.5), builder) for rate in RATES
    )
    assert best < slow
    assert fast_diverged


def test_without_rates_there_is_no_trial(builder, monkeypatch):
    monkeypatch.setattr("meta_train.teacher_tuning._final_loss", None)
    plain = ImitationConfig()
    (task_config,) = builder.config.tasks
    assert tuned(plain, builder.task(task_config), builder.bound(task_config)) is plain


def test_each_problem_has_its_rate_found_once(tiny, tmp_path, monkeypatch):
    calls = []

    def fake(config, task, bound):
        calls.append(task.batches(0).next().inputs.shape[-1])
        return replace(config, rates=(), matrix_rate=0.1 * len(calls))

    monkeypatch.setattr("meta_train.problems.tuned", fake)
    trainer = MetaTrainer(tiny(estimator=VALUES, unroll=[2, 2]), tmp_path)
    trainer.train()
    assert set(calls) == {7, 14}
    assert len(calls) == 2
    labels = {7: "7 px, batches of 16", 14: "14 px, batches of 8"}
    assert trainer.builder.rates == {
        f"fashion-mlp, {labels[size]}": pytest.approx(0.1 * (place + 1))
        for place, size in enumerate(calls)
    }


def test_rates_are_positive():
    with pytest.raises(ValueError, match=r"rates must be above zero.*rates=0"):
        ImitationConfig(rates=(1.0, 0.0))
