from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import held_out, transfer
from benchmarks.contest import Contest, RowsMissing, run_with
from benchmarks.optimizers import TeacherSpec
from optimizees.named_tasks import budget_of


@pytest.fixture
def complete_and_record():
    """Answer runs with an accuracy that is best at a rate of 0.2; keep them."""
    asked = []

    def complete(runs):
        runs = list(runs)
        asked.extend(run for run in runs if run not in asked)
        return [
            {"scores": [{"accuracy": 1 - abs(getattr(run.optimizer, "lr", 0) - 0.2)}]}
            for run in runs
        ]

    return complete, asked


@pytest.fixture
def contest():
    return Contest(
        tasks=("cifar-cnn",),
        rules=(),
        opponents=("adam", "muon"),
        lrs={"adam": (0.1, 0.2, 0.3), "muon": (0.1, 0.2)},
        extensions=1,
        untuned_lrs=(1e-3,),
        seeds=(1, 2),
        selection_seeds=(8, 9),
        steps=20,
        evaluate_at=(0.5,),
        batch_size=4,
        results=Path("rows.jsonl"),
    )


def test_opponents_are_tuned_on_validation_data_and_all_are_tested(
    contest, complete_and_record
):
    complete, asked = complete_and_record
    run_with(contest, complete)
    chosen = [run for run in asked if run.held_out_split == "validation"]
    tested = [run for run in asked if run.held_out_split == "test"]
    assert {run.train_split for run in chosen} == {"train"}
    assert {run.train_split for run in tested} == {"train+validation"}
    rates = [(run.optimizer.name, run.optimizer.lr, run.seed) for run in chosen]
    assert rates == [
        ("adam", lr, seed) for lr in (0.1, 0.2, 0.3) for seed in (8, 9)
    ] + [("muon", lr, seed) for lr in (0.1, 0.2, 0.4) for seed in (8, 9)]
    assert [(run.optimizer.name, run.seed) for run in tested] == [
        (name, seed) for name in ("adam", "muon", "adam", "teacher") for seed in (1, 2)
    ]
    assert [run.optimizer.lr for run in tested[:6:2]] == [0.2, 0.2, 1e-3]
    assert {(run.evaluate_at, run.batch_size) for run in asked} == {((10,), 4)}


def test_every_rate_of_a_grid_can_be_tested(contest, complete_and_record):
    complete, asked = complete_and_record
    run_with(replace(contest, opponents=("adam",), test_all_lrs=True), complete)
    tested = [run.optimizer for run in asked if run.held_out_split == "test"]
    assert [spec.lr for spec in tested[:6:2]] == [0.1, 0.2, 0.3]


def test_rules_run_as_they_are_and_in_variants_and_the_teacher_is_last(rule_file):
    few = (rule_file,)
    contest = replace(
        transfer.CONFIG,
        rules=few,
        bfloat16_rules=few,
        averaged_rules=few,
        horizon_rules=few,
        misled_rules=few,
        scaled_rules=few,
        grouped_rules=few,
        group_rows=3,
    )
    adam, rule, narrow, averaged, *others = contest.fixed
    told, half, double, scaled, grouped, last = others
    assert adam.label == "Adam, lr 0.001"
    assert rule.identity()["settings"] == {}
    assert narrow.identity()["settings"] == {"state": "bfloat16"}
    assert averaged.identity()["settings"] == {"average": True}
    assert averaged.label == f"{rule_file}, averaged weights"
    assert told.identity()["settings"] == {"knows_length": True}
    assert told.label == f"{rule_file}, knows the number of steps"
    settings = {"knows_length": True, "told_share": 0.5}
    assert half.identity()["settings"] == settings
    assert half.label == f"{rule_file}, told 0.5 times the number of steps"
    layer = torch.nn.Linear(3, 2)
    assert told.build(layer, 10).rule.horizon == 10
    assert half.build(layer, 10).rule.horizon == 5
    assert double.build(layer, 10).rule.horizon == 20
    assert scaled.identity()["settings"] == {"scale": 0.1}
    assert scaled.label == f"{rule_file}, updates x 0.1"
    assert grouped.identity()["settings"] == {"whitening_rows": 3}
    assert last == TeacherSpec()
    assert TeacherSpec() not in replace(contest, with_teacher=False).fixed


def test_tasks_have_batch_sizes_of_their_own():
    contest = held_out.CONFIG
    sizes = {
        task: {run.batch_size for run in contest.final(task, TeacherSpec())}
        for task in contest.tasks
    }
    assert sizes == {
        "digits-mlp": {128},
        "fashion-autoencoder": {128},
        "text-gpt": {32},
        "cifar-resnet": {64},
        "cifar-vit": {64},
    }
    assert contest.stops("cifar-vit") == (200, 400, 600, 800)


def test_a_task_may_decide_its_length_and_evaluations(contest):
    own = replace(
        contest,
        tasks=("photo-siren", "cifar-cnn"),
        steps=None,
        evaluate_at=None,
        batch_size=None,
        points=20,
    )
    for task in own.tasks:
        budget = budget_of(task)
        (run, _) = own.final(task, TeacherSpec())
        assert (run.steps, run.batch_size) == (budget.steps, budget.batch_size)
        assert len(run.evaluate_at) == budget.evaluations - 1
        assert run.curve_every == budget.steps // 20
        assert own.selection(task, TeacherSpec())[0].evaluate_at == ()


def test_untuned_opponents_have_the_rate_of_their_users(contest):
    untuned = ("soap", "original-muon")
    fixed = replace(contest, untuned_lrs=(), untuned=untuned).fixed
    assert [(spec.name, spec.lr) for spec in fixed[:2]] == [
        ("soap", 3e-3),
        ("original-muon", 0.02),
    ]


def test_what_cannot_run_yet_does_not_hold_up_the_rest(contest):
    asked = []

    def complete(runs):
        asked.extend(runs)
        raise RowsMissing

    run_with(contest, complete)
    assert [(run.optimizer.name, run.held_out_split) for run in asked] == (
        [("adam", "validation")] * 6
        + [("muon", "validation")] * 4
        + [("adam", "test")] * 2
        + [("teacher", "test")] * 2
    )


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"opponents": ("adamm",)}, "Check the spelling"),
        ({"lrs": {"muon": (0.1,)}}, "muon needs two or more"),
        ({"untuned": ("adamm",)}, "Check the spelling"),
        ({"workers": 0}, "got workers=0"),
        ({"steps": 1}, "Raise steps"),
        ({"evaluate_at": (0.5, 0.51)}, "got \\[10, 10, 20\\]"),
        ({"evaluate_at": (1.0,)}, "leave both out"),
    ],
    ids=str,
)
def test_a_contest_that_cannot_run_is_refused(contest, change, advice):
    with pytest.raises(ValueError, match=advice):
        replace(contest, **change)
