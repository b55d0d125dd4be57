import json
from importlib.metadata import version

import pytest
import torch

from benchmarks.optimizers import OpponentSpec, rule_spec
from benchmarks.runs import Ledger, TrainingRun, read_rows, train_run, use_threads
from meta_train.log import write_json_lines
from optimizees import TaskLoader, task_loader


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
    """Make one run on random images; return its row and the line that was said."""
    monkeypatch.setattr(task_loader, "load_fashion_mnist", lambda split, source: images)

    def call(todo):
        ledger = Ledger(tmp_path / "some" / "rows.jsonl", data="embedded")
        loader = TaskLoader(data="embedded")
        row, line = train_run(todo, ledger, loader, config={"a": 1}, name=todo.name)
        ledger.append(row)
        ledger.refresh()
        assert ledger.row(todo) == row
        return row, line

    return call


def test_a_row_tells_where_it_comes_from(run, rule_file):
    spec = rule_spec(rule_file)
    todo = make_run(spec, evaluate_at=(1,))
    row, line = run(todo)
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
    assert todo.name == f"fashion-cnn, {rule_file}, seed 101"
    assert line.startswith("test accuracy ")


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
def test_whatever_changes_a_result_makes_another_row(tmp_path, change):
    ledger = Ledger(tmp_path / "rows.jsonl", data="embedded")
    first, again = make_run(adam(0.01)), make_run(adam(0.01), **change)
    assert ledger.key(first) == ledger.key(make_run(adam(0.01)))
    assert ledger.key(first) != ledger.key(again)


def test_a_row_from_before_there_was_a_choice_counts(tmp_path, make_row):
    old = make_row(lr=0.5, steps=2, batch_size=4, data="embedded", curve=[1.0])
    for name in ("task", "settings"):
        del old[name]
    write_json_lines(tmp_path / "theirs.jsonl", [old])
    ledger = Ledger(
        tmp_path / "rows.jsonl", data="embedded", known=[tmp_path / "theirs.jsonl"]
    )
    assert ledger.elsewhere(make_run(adam(0.5))) == old
    assert ledger.elsewhere(make_run(adam(0.6))) is None
    assert ledger.row(make_run(adam(0.5))) is None


def test_a_row_tells_the_version_of_its_package(run):
    row, _ = run(make_run(OpponentSpec(name="soap", lr=0.01)))
    versions = row["provenance"]["versions"]
    assert versions["pytorch-optimizer"] == version("pytorch-optimizer")
    row, _ = run(make_run(adam(0.01)))
    assert set(row["provenance"]["versions"]) == {"l2o", "torch", "numpy", "python"}


def test_a_curve_may_have_fewer_points(run):
    row, _ = run(make_run(adam(0.01), steps=4, curve_every=2))
    assert (row["curve_every"], len(row["curve"])) == (2, 2)


def test_a_divergence_is_recorded_as_such(run):
    row, line = run(make_run(adam(1e30)))
    assert row["diverged"] is True
    assert row["scores"][0]["accuracy"] is None
    assert row["curve"] == [None]
    assert "test loss none" in line
    assert line.endswith("diverged at step 2")
    assert "NaN" not in json.dumps(row)


def test_auto_takes_the_full_data_where_it_is(tmp_path, monkeypatch):
    for found, expected in ((None, "embedded"), (tmp_path, "full")):
        monkeypatch.setattr(task_loader, "locate", lambda name, found=found: found)
        ledger = Ledger(tmp_path / "rows.jsonl", data="auto")
        assert ledger.identity(make_run(adam(0.01)))["data"] == expected


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
