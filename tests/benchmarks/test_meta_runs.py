import json

import pytest
import yaml

from benchmarks.meta_runs import read_meta_runs, report

STEPS = [
    {"outer_step": step, "loss": 2.0 / step, "inner_steps": 40 * step, "seconds": 60}
    for step in (1, 2, 3)
]


def validation(step, loss, accuracy):
    values = {"loss": loss, "accuracy": accuracy, "train_loss": loss}
    totals = {"skipped_total": 1, "diverged_total": 4}
    return {"outer_step": step, "validation": values, **totals}


VALIDATIONS = [
    validation(0, 0.9, 0.7),
    validation(2, 0.5, 0.85),
    validation(3, 0.6, 0.8),
]


@pytest.fixture
def write():
    """Write the files of one run."""

    def to(log, config, records=(*STEPS, *VALIDATIONS), select="loss"):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        values = {"estimator": {"kind": "nres"}, "validation": {"select": select}}
        config.write_text(yaml.safe_dump(values))

    return to


def test_a_run_is_a_line(write, tmp_path):
    home = tmp_path / "ff-nres"
    write(home / "log.jsonl", home / "config.yaml")
    text = report(home)
    (line,) = [line for line in text.splitlines() if "| ff-nres" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        *("ff-nres", "nres", "3", "120", "1"),
        *("70.0", "85.0, 2", "80.0", "4, 1"),
    ]
    assert (tmp_path / "ff-nres.md").read_text() == text
    assert (tmp_path / "ff-nres.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("select", "step"), [("loss", 2), ("accuracy", 4)])
def test_the_best_is_what_the_run_selects(select, step, write, tmp_path):
    later = [validation(4, 0.7, 0.9), validation(5, 0.8, 0.9)]
    home = tmp_path / "run"
    write(
        home / "log.jsonl",
        home / "config.yaml",
        [*STEPS, *VALIDATIONS, *later],
        select,
    )
    (run,) = read_meta_runs(home)
    assert run.best["outer_step"] == step


def test_runs_are_found_as_pairs_and_as_folders(write, tmp_path):
    write(tmp_path / "b.jsonl", tmp_path / "b.yaml")
    write(tmp_path / "a.jsonl", tmp_path / "a.yaml", records=STEPS)
    write(tmp_path / "c" / "log.jsonl", tmp_path / "c" / "config.yaml")
    (tmp_path / "rows.jsonl").write_text('{"outer_step": 1}\n')
    (tmp_path / "empty").mkdir()
    runs = read_meta_runs(tmp_path)
    assert [run.name for run in runs] == ["a", "b", "c"]
    assert [len(run.validations) for run in runs] == [0, 3, 3]
    assert "| a " in report(tmp_path)


def test_a_place_without_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got none\. Name the folder of a run"):
        read_meta_runs(tmp_path)
