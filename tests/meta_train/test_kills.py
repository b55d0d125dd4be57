"""A run that is killed again and again ends as one that nobody disturbed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from l2o import load_rule
from meta_train.config import save_config
from meta_train.log import read_json_lines
from meta_train.resume import load_checkpoint

SCRIPT = Path(__file__).with_name("kill_runs.py")
TIMES = ("seconds",)
"""What depends on the clock."""


def without_times(value):
    """Return nested values without what depends on the clock."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, list | tuple):
        return [without_times(item) for item in value]
    return value


def assert_same(found, expected, where="checkpoint"):
    """Compare nested values, tensors bit for bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            assert_same(found[place], value, f"{where}[{place}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
        assert found.dtype == expected.dtype, where
    else:
        assert found == expected, where


def assert_same_run(found, expected):
    """Compare two folders: checkpoint, rules and log."""
    names = {path.name for path in expected.iterdir()}
    assert {path.name for path in found.iterdir()} == names
    first, second = (
        without_times(load_checkpoint(folder / "checkpoint.pt"))
        for folder in (found, expected)
    )
    assert_same(first, second)
    for path in expected.glob("*.safetensors"):
        assert_same(load_file(found / path.name), load_file(path), path.name)
        load_rule(found / path.name)  # its checksum is right
    logs = [read_json_lines(folder / "log.jsonl") for folder in (found, expected)]
    assert_same(without_times(logs[0]), without_times(logs[1]), "log")


def run_killed(config, home, kills, started_by="yaml"):
    save_config(config, home / "run.yaml")
    command = [
        sys.executable,
        str(SCRIPT),
        str(home / "run.yaml"),
        str(home),
        str(kills),
        started_by,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    hits, runs = map(int, done.stdout.split())
    assert hits == kills
    return [home / f"killed-{number}" for number in range(runs)]


@pytest.mark.slow
@pytest.mark.parametrize("started_by", ["yaml", "python"])
def test_thirty_kills_change_nothing(tiny, tmp_path, started_by):
    config = tiny(
        outer_steps=20, checkpoint_minutes=1e-6, meta_optimizer={"average": 0.9}
    )
    folders = run_killed(config, tmp_path, 30, started_by)
    steps = [
        line["outer_step"] for line in read_json_lines(tmp_path / "whole/log.jsonl")
    ]
    assert set(steps) == set(range(1, 21))
    for folder in folders:
        assert_same_run(folder, tmp_path / "whole")


@pytest.mark.slow
def test_the_comparison_can_fail(tiny, tmp_path):
    """The control: another seed is another run."""
    for seed in (0, 1):
        home = tmp_path / str(seed)
        home.mkdir()
        run_killed(tiny(seed=seed), home, kills=0)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "0/whole", tmp_path / "1/whole")
    assert_same_run(tmp_path / "0/whole", tmp_path / "0/whole")
