import json

import pytest
import torch

from benchmarks.optimizers import OpponentSpec, rule_spec
from benchmarks.runs import TrainingRun, complete_runs, read_rows, use_threads
from meta_train.log import read_json_lines, write_json_lines
from optimizees import named_tasks


def adam(lr):
    return OpponentSpec(name="adam", lr=lr)


def make_run(optimizer, **values):
    values = {
        "seed": 101,
        "steps": 2,
        "batch_size": 4,
        "train_split": "train+validation",
        "held_out_split": "test",
    } | values
    return TrainingRun(task="fashion-cnn", optimizer=optimizer, **values)


@pytest.fixture
def run(tmp_path, images, monkeypatch):
    """Make runs on random images; return the rows and the lines that were said."""
    monkeypatch.setattr(named_tasks, "load_fashion_mnist", lambda split, source: images)

    def call(*todo, known=()):
        lines = []
        rows = complete_runs(
            todo,
            tmp_path / "some" / "rows.jsonl",
            data="embedded",
            config={"a": 1},
            announce=lines.append,
            known=known,
        )
        written = read_json_lines(tmp_path / "some" / "rows.jsonl")
        assert [row for row in written if row in rows] == rows
        return written, lines

    return call


def test_a_row_tells_where_it_comes_from(run, rule_file):
    spec = rule_spec(rule_file)
    ((row,), (line,)) = run(make_run(spec, evaluate_at=(1,)))
    assert row["optimizer"] == rule_file
    assert row["rule_sha256"] == row["rule"]["sha256"] == spec.sha256
    assert (row["task"], row["settings"]) == ("fashion-cnn", {})
    assert (row["lr"], row["seed"], row["steps"]) == (None, 101, 2)
    assert row["data"] == "embedded"
    assert row["data_source"] == (
        "random images, 60 images to train on and 60 held out"
    )
    assert [score["step"] for score in row["scores"]] == [1, 2]
    assert len(row["curve"]) == 1
    assert row["config"] == {"a": 1}
    assert row["provenance"]["machine"]["threads"] == torch.get_num_threads()
    assert line.startswith(f"[1/1] fashion-cnn, {rule_file}, seed 101: test accuracy ")


def test_a_second_run_adds_what_is_missing_only(run):
    first, _ = run(make_run(adam(0.01)))
    again, lines = run(make_run(adam(0.01)), make_run(adam(0.02)))
    assert again[:1] == first
    assert [row["lr"] for row in again] == [0.01, 0.02]
    assert lines[0] == "[1/2] fashion-cnn, Adam, lr 0.01, seed 101: already there"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 102},
        {"steps": 3},
        {"evaluate_at": (1,)},
        {"batch_size": 5},
        {"train_split": "train"},
        {"held_out_split": "validation"},
    ],
    ids=str,
)
def test_whatever_changes_a_result_makes_another_row(run, change):
    run(make_run(adam(0.01)))
    rows, _ = run(make_run(adam(0.01), **change))
    assert len(rows) == 2


def test_rows_of_another_benchmark_are_copied(run, tmp_path, make_row):
    theirs = make_row(lr=0.5, steps=2, batch_size=4, data="embedded", curve=[1.0])
    for name in ("task", "settings"):  # an old row does not say
        del theirs[name]
    write_json_lines(tmp_path / "theirs.jsonl", [theirs])
    rows, lines = run(make_run(adam(0.5)), known=[tmp_path / "theirs.jsonl"])
    assert rows == [theirs]
    assert lines == ["[1/1] fashion-cnn, Adam, lr 0.5, seed 101: copied"]


def test_an_interrupted_line_is_cut_off_and_run_again(run, tmp_path):
    first, _ = run(make_run(adam(0.01)), make_run(adam(0.02)))
    path = tmp_path / "some" / "rows.jsonl"
    path.write_text(path.read_text()[:-20])
    rows, _ = run(make_run(adam(0.01)), make_run(adam(0.02)))
    assert [row["lr"] for row in rows] == [0.01, 0.02]
    assert rows[0] == first[0]


@pytest.mark.parametrize("tail", ["", '{"seed": 1'], ids=["whole", "torn"])
def test_a_damaged_line_stops_the_benchmark_and_nothing_is_lost(run, tmp_path, tail):
    run(make_run(adam(0.01)))
    path = tmp_path / "some" / "rows.jsonl"
    damaged = "<<<<<<< HEAD\n" + path.read_text() * 3 + tail
    path.write_text(damaged)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1\."):
        run(make_run(adam(0.01)), make_run(adam(0.02)))
    assert path.read_text() == damaged


def test_a_divergence_is_recorded_as_such(run):
    (row,), (line,) = run(make_run(adam(1e30)))
    assert row["diverged"] is True
    assert row["scores"][0]["accuracy"] is None
    assert row["curve"] == [None]
    assert "test loss none" in line
    assert line.endswith("diverged at step 2")
    assert "NaN" not in json.dumps(row)


def test_auto_takes_the_full_data_where_it_is(tmp_path, images, monkeypatch):
    asked = []

    def load(split, source):
        asked.append(source)
        return images

    monkeypatch.setattr(named_tasks, "load_fashion_mnist", load)
    for found, expected in ((None, "embedded"), (tmp_path, "full")):
        monkeypatch.setattr(named_tasks, "locate", lambda name, found=found: found)
        complete_runs(
            [make_run(adam(0.01))],
            tmp_path / "rows.jsonl",
            data="auto",
            config={},
            announce=print,
        )
        assert set(asked) == {expected}
        asked.clear()
    assert [row["data"] for row in read_rows(tmp_path / "rows.jsonl")] == [
        "embedded",
        "full",
    ]


def test_of_equal_rows_the_last_one_counts(tmp_path, make_row):
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, [make_row(curve=[1.0]), make_row(curve=[2.0])])
    assert [row["curve"] for row in read_rows(path)] == [[2.0]]


def test_threads_must_be_positive():
    with pytest.raises(ValueError, match="Leave it out for all cores"):
        use_threads(0)


def test_no_threads_leave_the_number_as_it_is():
    before = torch.get_num_threads()
    use_threads(None)
    assert torch.get_num_threads() == before
