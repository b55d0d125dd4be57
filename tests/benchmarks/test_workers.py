import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from benchmarks.contest import Contest
from benchmarks.runs import Ledger, read_rows
from benchmarks.workers import run
from meta_train.log import read_json_lines, write_json_lines
from optimizees import task_loader
from optimizees.shared_work import Locks


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def contest(tmp_path, images, monkeypatch):
    """Two rates of Adam on random images."""
    monkeypatch.setattr(task_loader, "load_fashion_mnist", lambda split, source: images)
    return Contest(
        tasks=("fashion-cnn",),
        rules=(),
        with_teacher=False,
        untuned_lrs=(0.01, 0.02),
        seeds=(101,),
        steps=2,
        batch_size=4,
        data="embedded",
        results=tmp_path / "some" / "rows.jsonl",
    )


@pytest.fixture
def made(contest):
    """Run a contest; return the rows in its file and the lines that were said."""

    def call(**changes):
        lines = []
        run(replace(contest, **changes), lines.append)
        return read_json_lines(contest.results), lines

    return call


def test_a_second_run_adds_what_is_missing_only(made, contest):
    first, _ = made(untuned_lrs=(0.01,))
    again, lines = made()
    assert again[:1] == first
    assert [row["lr"] for row in again] == [0.01, 0.02]
    assert lines[0] == "1 rows are already there"
    assert lines[1].startswith("[2/2] fashion-cnn, Adam, lr 0.02, seed 101: test acc")
    assert len(lines) == 2
    assert again[0]["config"] == {
        "data": "embedded",
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }
    assert os.listdir(contest.results.parent / "rows.jsonl.locks") == ["append.lock"]


def test_rows_of_another_benchmark_are_copied(made, tmp_path, make_row):
    theirs = make_row(lr=0.5, steps=2, batch_size=4, data="embedded", curve=[1.0])
    write_json_lines(tmp_path / "theirs.jsonl", [theirs])
    rows, lines = made(untuned_lrs=(0.5,), known=(tmp_path / "theirs.jsonl",))
    assert rows == [theirs]
    assert lines == ["[1/1] fashion-cnn, Adam, lr 0.5, seed 101: copied"]


def test_an_interrupted_line_is_cut_off_and_run_again(made, contest):
    first, _ = made()
    contest.results.write_text(contest.results.read_text()[:-20])
    rows, _ = made()
    assert [row["lr"] for row in rows] == [0.01, 0.02]
    assert rows[0] == first[0]


@pytest.mark.parametrize("tail", ["", '{"seed": 1'], ids=["whole", "torn"])
def test_a_damaged_line_stops_the_benchmark_and_nothing_is_lost(made, contest, tail):
    made(untuned_lrs=(0.01,))
    damaged = "<<<<<<< HEAD\n" + contest.results.read_text() * 3 + tail
    contest.results.write_text(damaged)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1\."):
        made()
    assert contest.results.read_text() == damaged


def test_a_run_that_another_process_holds_is_left_to_it(contest):
    """The holder is released when the other run is made; then its run is made here."""
    ledger = Ledger(contest.results, data="embedded")
    (first, _) = [contest.final("fashion-cnn", spec)[0] for spec in contest.fixed]
    lines = []
    with Locks(contest.results).try_hold(ledger.key(first)) as is_held:
        assert is_held
        with Locks(contest.results).try_hold(ledger.key(first)) as is_held_twice:
            assert not is_held_twice
        with pytest.raises(InterruptedError):
            run(contest, lambda line: (lines.append(line), _stop()))
        assert [row["lr"] for row in read_rows(contest.results)] == [0.02]
    run(contest, lines.append)
    assert [row["lr"] for row in read_rows(contest.results)] == [0.02, 0.01]


def _stop():
    raise InterruptedError


def test_a_wrong_device_is_one_clear_line(contest):
    with pytest.raises(ValueError, match="Choose auto or cpu"):
        run(replace(contest, device="tpu9"), print)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_contest_on_a_gpu_makes_the_rows_of_the_cpu(contest, tmp_path):
    there = replace(contest, device="cuda", results=tmp_path / "gpu.jsonl")
    run(contest, print)
    run(there, print)
    for row, other in zip(
        read_rows(there.results), read_rows(contest.results), strict=True
    ):
        assert row["config"]["device"] == "cuda:0"
        assert row["curve"] == pytest.approx(other["curve"], abs=1e-3)


def table_contest(path, **changes):
    """Six short runs on a table that needs no file."""
    values = {
        "tasks": ("diabetes-mlp",),
        "rules": (),
        "with_teacher": False,
        "opponents": ("adamw",),
        "lrs": {"adamw": (0.001, 0.01)},
        "extensions": 1,
        "untuned": ("sgd", "soap"),
        "seeds": (1, 2),
        "selection_seeds": (9,),
        "steps": 20,
        "threads": 1,
        "results": path,
    }
    return Contest(**(values | changes))


def outcomes(path):
    """Return what was computed, by run, without times."""
    names = ("task", "optimizer", "lr", "seed", "held_out_split", "curve", "scores")
    return sorted(str([row[name] for name in names]) for row in read_rows(path))


@pytest.mark.slow
def test_several_workers_make_the_same_rows_as_one(tmp_path):
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    run(table_contest(alone), print)
    lines = []
    run(table_contest(shared, workers=2), lines.append)
    assert outcomes(shared) == outcomes(alone)
    assert len(read_json_lines(shared)) == len(read_rows(shared)) == len(lines)


@pytest.mark.slow
def test_an_error_of_a_worker_is_raised_here(tmp_path):
    contest = table_contest(tmp_path / "rows.jsonl", workers=2, device="tpu9")
    with pytest.raises(ValueError, match="Choose auto or cpu"):
        run(contest, print)


@pytest.mark.slow
def test_what_killed_workers_leave_is_made_by_others(tmp_path):
    """Two processes are killed in the middle of a run; two workers finish the rest."""
    path = tmp_path / "rows.jsonl"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_workers import table_contest\n"
        "from benchmarks.workers import run\n"
        "run(table_contest(Path(sys.argv[1]), steps=150), print)\n"
    )
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", code, str(path), here]
    others = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    deadline = time.monotonic() + 60
    while len(read_json_lines(path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    for other in others:
        other.send_signal(signal.SIGKILL)
        other.wait()
    num_left = len(read_json_lines(path))
    assert num_left >= 2
    run(table_contest(path, steps=150, workers=2), print)
    rows = read_json_lines(path)
    assert len(rows) == len(read_rows(path)) > num_left
    alone = tmp_path / "alone.jsonl"
    run(table_contest(alone, steps=150), print)
    assert outcomes(path) == outcomes(alone)


@pytest.mark.slow
def test_processes_of_torchrun_share_the_runs(tmp_path):
    path, script = tmp_path / "rows.jsonl", tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from test_workers import table_contest\n"
        "from benchmarks.workers import run\n"
        f"run(table_contest(Path({str(path)!r}), steps=150), print)\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(script)], capture_output=True, text=True, check=True
    )
    made = re.findall(r"\[\d+/\d+\] ", done.stdout)  # lines of two may run together
    rows = read_json_lines(path)
    assert len(rows) == len(read_rows(path)) == len(made)
