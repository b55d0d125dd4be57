import gzip
import hashlib
import math
from dataclasses import replace

import pytest

from benchmarks import intervals, scoreboard
from benchmarks.command import benchmark, report
from benchmarks.opponents import OPPONENTS
from benchmarks.runs import read_rows
from benchmarks.scoreboard_entries import (
    read_scoreboard,
    seconds_of,
    steps_to_loss,
)
from benchmarks.scoreboard_picture import profile_curves
from l2o.rule.checkpoint import DEFAULT_RULE
from l2o.rule_metadata import rule_path
from meta_train.log import write_json_lines


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch):
    monkeypatch.setattr(intervals, "_REPETITIONS", 20)


def rule_of(name):
    """Return what rows say of a shipped rule."""
    checksum = hashlib.sha256(rule_path(name).read_bytes()).hexdigest()
    return {"rule": {"sha256": checksum, "kind": ""}, "rule_sha256": checksum}


OLD = {"rule": {"sha256": "0123456789ab", "kind": ""}, "rule_sha256": "0123456789ab"}


@pytest.fixture
def rows_of(make_row):
    """Build the rows of one optimizer on one task, a loss for each seed from 101."""

    def build(optimizer, losses, *, task="diabetes-mlp", first_seed=101, **values):
        return [
            make_row(
                task=task,
                optimizer=optimizer,
                seed=first_seed + index,
                scores=[
                    {"step": 10, "train_loss": 2.0, "loss": 2.0, "accuracy": None},
                    {"step": 20, "train_loss": 1.0, "loss": loss, "accuracy": None},
                ],
                data_source="a table",
                **({"lr": OPPONENTS[optimizer].untuned_lr} | values)
                if optimizer in OPPONENTS
                else ({"lr": None} | rule_of(optimizer) | values),
            )
            for index, loss in enumerate(losses)
        ]

    return build


@pytest.fixture
def grid_of(rows_of):
    """Build the validation rows of an opponent: loss by learning rate."""

    def build(optimizer, losses, **values):
        return [
            row
            for lr, loss in losses.items()
            for row in rows_of(
                optimizer,
                [loss],
                lr=lr,
                first_seed=9001,
                held_out_split="validation",
                train_split="train",
                **values,
            )
        ]

    return build


SIX = {1e-4: 0.9, 1e-3: 0.8, 1e-2: 0.7, 2e-2: 0.6, 4e-2: 0.8, 8e-2: 0.9}


@pytest.fixture
def rows(rows_of, grid_of):
    """A rule, two opponents of either table, and both controls."""
    return [
        *rows_of(DEFAULT_RULE, [0.50, 0.51, 0.52]),
        *rows_of(DEFAULT_RULE, [0.51, 0.50, 0.52], first_seed=201),
        *rows_of("adamw", [0.80, 0.81, 0.82]),
        *grid_of("adamw", SIX),
        *rows_of("adamw", [0.40, 0.41, 0.42], lr=2e-2),
        *rows_of("soap-linear", [0.60, 0.61, math.nan]),
        *rows_of("adam", [0.6, 0.61, 0.62], lr=1e-2),
        *rows_of("adam", [0.9, 0.91, 0.92], lr=1e-4),
    ]


@pytest.fixture
def board(rows):
    for row in rows:
        for score in row["scores"]:
            score["loss"] = None if math.isnan(score["loss"]) else score["loss"]
    return read_scoreboard(rows, scoreboard.CONFIG)


def test_there_are_twelve_tasks_and_enough_opponents():
    contest = scoreboard.CONFIG
    assert len(set(contest.tasks)) == 12
    for horizon in (False, True):
        names = [n for n in contest.untuned if OPPONENTS[n].knows_horizon is horizon]
        assert len(names) >= 8
    assert contest.untuned == contest.opponents
    assert all(len(contest.grid(name)) >= 6 for name in contest.opponents)
    assert contest.tune_by == "loss"
    assert len(contest.final("cifar-cnn", contest.fixed[0])) == 10
    assert len(contest.final("text-lstm", contest.fixed[0])) == 5


def test_rows_become_entries(board):
    found = {(entry.name, entry.setting): entry for entry in board.entries}
    assert set(found) == {
        (DEFAULT_RULE, "as it is"),
        ("adamw", "untuned"),
        ("adamw", "tuned"),
        ("soap-linear", "untuned"),
    }
    assert found[DEFAULT_RULE, "as it is"].horizons == ("unknown", "known")
    assert found["adamw", "tuned"].horizons == ("unknown",)
    assert found["soap-linear", "untuned"].horizons == ("known",)
    assert found["adamw", "tuned"].tuning_runs == {"diabetes-mlp": 6}
    assert found["adamw", "untuned"].tuning_runs == {}
    assert found["soap-linear", "untuned"].loss("diabetes-mlp") == math.inf
    assert board.best_loss("diabetes-mlp") == pytest.approx(0.41)
    assert board.targets == {"diabetes-mlp": 0.6}


def test_five_rates_are_not_tuned(rows_of, grid_of):
    few = dict(list(SIX.items())[:5])
    rows = [*grid_of("adamw", few), *rows_of("adamw", [0.4, 0.4], lr=2e-2)]
    assert read_scoreboard(rows, scoreboard.CONFIG).entries == []


def test_a_rule_that_is_told_the_horizon_stands_in_one_table(rows_of):
    rows = rows_of(DEFAULT_RULE, [0.5, 0.5], settings={"knows_length": True})
    (entry,) = read_scoreboard(rows, scoreboard.CONFIG).entries
    assert entry.horizons == ("known",)


def test_an_earlier_rule_of_that_name_is_another_one(rows_of):
    rows = [
        *rows_of(DEFAULT_RULE, [0.5, 0.5]),
        *rows_of(DEFAULT_RULE, [0.1, 0.1], **OLD),
    ]
    board = read_scoreboard(rows, scoreboard.CONFIG)
    names = [entry.name for entry in board.entries]
    assert names == [DEFAULT_RULE, f"{DEFAULT_RULE} (01234567)"]
    assert [entry.name for entry in board.rules()] == names


def test_a_scaled_rule_stands_in_no_table(rows_of):
    rows = [
        *rows_of("ff", [0.5, 0.5]),
        *rows_of("ff", [0.1, 0.1], settings={"scale": 0.1}),
    ]
    board = read_scoreboard(rows, scoreboard.CONFIG)
    assert [entry.horizons for entry in board.entries] == [("unknown", "known"), ()]
    assert board.best_loss("diabetes-mlp") == 0.5
    assert [entry.horizons for entry in board.rules()] == [("unknown", "known")]


def test_the_profile_takes_the_better_setting_of_an_opponent(board):
    curves = profile_curves(board, "unknown")
    assert list(curves) == [DEFAULT_RULE, "AdamW (tuned)"]
    assert curves["AdamW (tuned)"][0][1] == pytest.approx(1.0)
    (scores,) = profile_curves(board, "known")["SOAP, linear (untuned)"]
    assert scores[2] == 0.0


def test_steps_to_a_loss_are_interpolated():
    scores = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 1.0}]
    row = {"scores": scores, "optimizer_ms": 1.0, "loss_ms": 3.0}
    assert steps_to_loss(row, 3.5) == 10
    assert steps_to_loss(row, 1.5) == 17.5
    assert steps_to_loss(row, 0.5) is None
    assert steps_to_loss({"scores": [{"step": 1, "loss": None}]}, 9.0) is None
    assert seconds_of(row, 17.5) == pytest.approx(0.07)


def test_the_page_says_who_wins_and_whether_controls_hold(rows, tmp_path, capsys):
    for row in rows:
        for score in row["scores"]:
            score["loss"] = None if math.isnan(score["loss"]) else score["loss"]
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, rows)
    assert report(["scoreboard", "--results", str(path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "| AdamW | untuned | unknown | 1-0-0 |" in lines
    assert "| AdamW | tuned | unknown | 0-0-1 |" in lines
    assert "| SOAP, linear | untuned | known | 1-0-0 |" in lines
    (rates,) = [line for line in lines if line.startswith("| diabetes-mlp | 3 | 0.6")]
    assert rates.endswith("| won |")
    itself = [line for line in lines if line.startswith(f"| {DEFAULT_RULE} | diab")]
    assert itself[-1].endswith("| level |")
    assert (
        "Level on 1 of 1 tasks; one in twenty is expected to come out otherwise."
        in (lines)
    )
    assert "| cifar-vit | 500 | 64 | 0 of 5 | 0 of 8 | 0 of 17 | 0 of 17 |" in lines
    assert path.with_suffix(".png").is_file()


def test_a_task_of_which_only_rates_are_tried_waits(rows, grid_of, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    finite = [row for row in rows if row["optimizer"] != "soap-linear"]
    write_json_lines(path, [*finite, *grid_of("muon", SIX, task="cifar-resnet")])
    assert report(["scoreboard", "--results", str(path)]) == 0
    assert "| cifar-resnet" in capsys.readouterr().out
    assert path.with_suffix(".png").stat().st_size > 1000
    (line,) = [
        line
        for line in path.with_suffix(".md").read_text().splitlines()
        if line.startswith("| cifar-resnet")
    ]
    assert "0 of 17" in line


def test_rows_may_be_packed(rows, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, rows[:6])
    packed = path.read_bytes()
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(packed))
    assert len(read_rows(path)) == 6
    path.unlink()
    assert len(read_rows(path)) == 6
    write_json_lines(path, rows[3:9])
    assert len(read_rows(path)) == 9
    path.unlink()
    assert report(["scoreboard", "--results", str(path)]) == 0


@pytest.mark.slow
def test_it_runs_resumes_and_reports(tmp_path, rule_file, capsys):
    path = tmp_path / "rows.jsonl"
    arguments = [
        *("scoreboard", "--tasks", "diabetes-mlp", "--rules", rule_file),
        *(
            "--averaged-rules",
            "--horizon-rules",
            "--control-rules",
            rule_file,
            "--control-seeds",
            "201",
        ),
        *("--opponents", "adamw", "--untuned", "adamw", "normuon-linear"),
        *("--lrs.adamw", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3"),
        *("--extensions", "0", "--no-with-teacher", "--steps", "10"),
        *("--seeds", "101", "102", "--threads", "1", "--results", str(path)),
    ]
    assert benchmark(arguments) == 0
    rows = read_rows(path)
    made = [(row["optimizer"], row["lr"], row["seed"]) for row in rows]
    assert len(set(made)) == len(made)
    assert len({lr for name, lr, _ in made if name == "adamw"}) == 6
    for wanted in (("normuon-linear", 0.02), ("adam", 1e-4), (rule_file, None)):
        assert {(*wanted, 101), (*wanted, 102)} <= set(made)
    assert (rule_file, None, 201) in made
    assert {len(row["scores"]) for row in rows if row["held_out_split"] == "test"} == {
        10
    }
    before = path.read_bytes()
    # Nothing is made twice, packed or not.
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(before))
    path.unlink()
    assert benchmark(arguments) == 0
    assert not path.exists()
    assert report(["scoreboard", "--results", str(path)]) == 0
    assert "## diabetes-mlp" in capsys.readouterr().out


@pytest.mark.slow
def test_the_pipeline_finds_what_is_known_and_nothing_in_noise(tmp_path, rule_file):
    """Fifty steps at a rate of 1e-4 are too few; other seeds are no other rule."""
    contest = replace(
        scoreboard.CONFIG,
        tasks=("diabetes-mlp",),
        rules=(rule_file,),
        averaged_rules=(),
        horizon_rules=(),
        control_rules=(rule_file,),
        with_teacher=False,
        opponents=(),
        untuned=(),
        steps=50,
        threads=1,
        results=tmp_path / "rows.jsonl",
    )
    scoreboard.run(contest, print)
    board = read_scoreboard(read_rows(contest.results), contest)
    rates = {
        lr: {row["seed"]: row["scores"][-1]["loss"] for row in group.rows}
        for lr, group in board.rates["diabetes-mlp"].items()
    }
    assert intervals.paired_ratio(rates[1e-2], rates[1e-4]).verdict == "won"
    assert intervals.paired_ratio(rates[1e-4], rates[1e-2]).verdict == "lost"
    (entry,) = board.entries
    (again,) = board.repeated["diabetes-mlp"].values()
    own, other = entry.losses("diabetes-mlp").values(), again.values("loss")
    assert len(own) == len(other) == 5
    assert intervals.unpaired_ratio(list(own), other).verdict == "level"
