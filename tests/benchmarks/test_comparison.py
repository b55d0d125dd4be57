import pytest

from benchmarks.baselines import Adam
from benchmarks.comparison import Contest, run_contest, without_tuning
from benchmarks.optimizers import Teacher


@pytest.fixture
def run_and_record():
    """Answer trials with an accuracy that is best at a rate of 0.2; keep them."""
    asked = []

    def run(trials):
        trials = list(trials)
        asked.extend(trials)
        return [
            {"scores": [{"accuracy": 1 - abs(getattr(trial.contender, "lr", 0) - 0.2)}]}
            for trial in trials
        ]

    return run, asked


def test_opponents_are_tuned_on_validation_data_and_all_are_tested(run_and_record):
    run, asked = run_and_record
    contest = Contest(
        task="cifar-cnn",
        lrs={"adam": (0.1, 0.2, 0.3), "muon": (0.1, 0.2)},
        extensions=1,
        untuned=(Adam(lr=1e-3), Teacher()),
        seeds=(1, 2),
        selection_seeds=(8, 9),
        steps=20,
        evaluate_at=(10,),
        batch_size=4,
    )
    run_contest(contest, run)
    chosen = [trial for trial in asked if trial.held_out_split == "validation"]
    tested = [trial for trial in asked if trial.held_out_split == "test"]
    assert {trial.train_split for trial in chosen} == {"train"}
    assert {trial.train_split for trial in tested} == {"train+validation"}
    rates = [(trial.contender.name, trial.contender.lr, trial.seed) for trial in chosen]
    assert rates == [
        ("adam", lr, seed) for lr in (0.1, 0.2, 0.3) for seed in (8, 9)
    ] + [("muon", lr, seed) for lr in (0.1, 0.2, 0.4) for seed in (8, 9)]
    assert [(trial.contender.name, trial.seed) for trial in tested] == [
        (name, seed) for name in ("adam", "muon", "adam", "teacher") for seed in (1, 2)
    ]
    assert [trial.contender.lr for trial in tested[:6:2]] == [0.2, 0.2, 1e-3]
    assert {trial.evaluate_at for trial in asked} == {(10,)}


def test_the_teacher_comes_after_the_rules(rule_file):
    rule, last = without_tuning([rule_file], with_teacher=True)
    assert (rule.name, last) == (rule_file, Teacher())
    assert without_tuning([], with_teacher=False) == []
