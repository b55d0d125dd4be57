"""Any number of processes share a population, and finish what killed ones left."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from l2o.cli import main

SCRIPT = Path(__file__).with_name("population_runs.py")
KINDS = ("park", "zoo", "fits")
VERBS = ("wild-park", "cnn-zoo", "siren-fits")


def start(kind, folder):
    command = [sys.executable, str(SCRIPT), kind, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def tensors(folder):
    paths = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): load_file(path) for path in paths}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].keys() == values.keys()
        for key, value in values.items():
            assert found[name][key].equal(value), (name, key)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_killed_processes_leave_is_made_by_others(kind, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert start(kind, alone).wait() == 0
    others = [start(kind, shared) for _ in range(2)]
    deadline = time.monotonic() + 60
    while not tensors(shared) and time.monotonic() < deadline:
        time.sleep(0.02)
    for other in others:
        other.send_signal(signal.SIGKILL)
        other.wait()
    left = tensors(shared)
    assert 1 <= len(left) < 6
    others = [start(kind, shared) for _ in range(3)]
    assert [other.wait() for other in others] == [0, 0, 0]
    found = tensors(shared)
    assert len(found) == 6
    assert_same(found, tensors(alone))
    assert_same(left, {name: found[name] for name in left})
    first = next(iter(found))
    with pytest.raises(AssertionError):
        assert_same({**found, first: left[first] | {"more": 0}}, found)


@pytest.mark.parametrize("verb", VERBS)
class TestOptions:
    def test_a_wrong_device_is_one_line(self, verb, tmp_path, capsys):
        command = ["data", verb, "--dest", str(tmp_path), "--device", "tpu9"]
        assert main(command) != 0
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "Choose auto or cpu" in line
        assert not list(tmp_path.iterdir())

    def test_there_must_be_a_worker(self, verb, tmp_path, capsys):
        command = ["data", verb, "--dest", str(tmp_path), "--workers", "0"]
        with suppress(SystemExit):
            assert main(command) != 0
        assert "at least one" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_make_the_networks_of_one_process(tmp_path, capsys, monkeypatch):
    """By the command, on FashionMNIST where it is found."""
    options = ["--images", "fashion-test", "--fit.steps", "3"]
    options += ["--count", "4", "--file-size", "2"]
    for folder, workers in (("alone", "1"), ("shared", "2")):
        command = ["data", "siren-fits", "--dest", str(tmp_path / folder), *options]
        if main([*command, "--workers", workers]) != 0:
            pytest.skip(capsys.readouterr().err.strip())
    assert_same(tensors(tmp_path / "shared"), tensors(tmp_path / "alone"))
