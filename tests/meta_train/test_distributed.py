"""Several processes are one run: the same theta, and a clear end when one dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from l2o import load_rule
from meta_train.config import save_config
from meta_train.distributed import Processes, join_processes
from meta_train.log import read_json_lines
from meta_train.loop import MetaTrainer

SLOW_START = 120
"""Seconds that a process may take to import torch beside other jobs."""


@pytest.fixture
def launch(tmp_path):
    """Start a run under torchrun; return the process."""
    started = []

    def start(config, folder, *options, processes=2):
        save_config(config, tmp_path / "run.yaml")
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "--local-addr", "127.0.0.1"),
            *("-m", "meta_train", str(tmp_path / "run.yaml")),
            *("--folder", str(folder), "-t", "1", *options),
        ]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def theta(folder, name="last"):
    rule = load_rule(folder / f"{name}.safetensors")
    return torch.nn.utils.parameters_to_vector(rule.parameters()).detach()


@pytest.mark.slow
class TestTorchrun:
    @pytest.fixture
    def config(self, tiny):
        return tiny(num_tasks=2, outer_steps=4, steps_per_outer=4)

    def test_two_processes_of_a_task_are_one_of_two(self, launch, config, tmp_path):
        MetaTrainer(config, tmp_path / "alone").train()
        process = launch(config, tmp_path / "pair")
        _, errors = process.communicate(timeout=SLOW_START)
        assert process.returncode == 0, errors
        expected = theta(tmp_path / "alone")
        torch.testing.assert_close(
            theta(tmp_path / "pair"), expected, rtol=0, atol=1e-6
        )
        logs = [read_json_lines(tmp_path / f / "log.jsonl") for f in ("alone", "pair")]
        assert len(logs[0]) == len(logs[1]) == 6
        for one, two in zip(*logs, strict=True):
            if "loss" in one:
                assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
                assert two["inner_steps"] == one["inner_steps"]
        # The law can fail: one task less is another theta.
        MetaTrainer(
            type(config)(**{**vars(config), "num_tasks": 1}), tmp_path / "less"
        ).train()
        assert (theta(tmp_path / "less") - expected).abs().max() > 1e-4

    def test_it_goes_on_with_another_number_of_processes(
        self, launch, config, tmp_path
    ):
        MetaTrainer(config, tmp_path / "alone").train()
        process = launch(config, tmp_path / "parts", "--until", "2")
        _, errors = process.communicate(timeout=SLOW_START)
        assert process.returncode == 0, errors
        trainer = MetaTrainer(config, tmp_path / "parts", resume=True)
        assert (trainer.outer_step, len(trainer.runners)) == (2, 2)
        trainer.train()
        torch.testing.assert_close(
            theta(tmp_path / "parts"), theta(tmp_path / "alone"), rtol=0, atol=1e-6
        )

    def test_a_killed_process_ends_the_run(self, launch, tiny, tmp_path):
        """It says so, does not hang, and what was saved can be gone on with."""
        config = tiny(outer_steps=100_000, checkpoint_minutes=1e-9)
        process = launch(config, tmp_path / "run")
        log = tmp_path / "run" / "log.jsonl"
        deadline = time.monotonic() + SLOW_START
        while len(read_json_lines(log)) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(second_rank(process.pid), signal.SIGKILL)
        _, errors = process.communicate(timeout=SLOW_START)
        assert process.returncode != 0
        assert "l2o: MetaTrainer needs every process" in errors
        assert "--resume" in errors
        trainer = MetaTrainer(config, tmp_path / "run", resume=True)
        reached = trainer.outer_step
        assert reached > 0
        trainer.train(until=reached + 1)
        assert trainer.outer_step == reached + 1


def second_rank(launcher):
    """Return the process of index 1, which torchrun has told so."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if "\0RANK=1\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError(f"none of {children} is index 1")


class TestAlone:
    def test_nothing_is_exchanged(self):
        with join_processes() as processes:
            value = torch.ones(3)
            processes.add_up([value])
            assert value.tolist() == [1, 1, 1]
            assert processes.any(True)
            assert not processes.any(False)
            assert processes.gather({0: "a"}) == {0: "a"}
            assert processes.is_first

    def test_slots_are_dealt_out(self, tiny, tmp_path):
        config = tiny(num_tasks=5)
        dealt = [
            list(MetaTrainer(config, tmp_path, processes=Processes(index, 2)).runners)
            for index in (0, 1)
        ]
        assert dealt == [[0, 2, 4], [1, 3]]

    def test_every_process_needs_a_task(self, tiny, tmp_path):
        with pytest.raises(ValueError, match="Raise num_tasks, or start fewer"):
            MetaTrainer(tiny(num_tasks=2), tmp_path, processes=Processes(0, 3))

    def test_a_broken_exchange_says_what_to_do(self, monkeypatch):
        def broken(_tensor):
            raise RuntimeError("Connection closed by peer\nmore")

        monkeypatch.setattr("torch.distributed.all_reduce", broken)
        with pytest.raises(ConnectionError, match=r"by peer\)\. .* with --resume"):
            Processes(0, 2).add_up([torch.ones(1)])

    def test_only_the_first_writes(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setattr(Processes, "add_up", lambda self, tensors: None)
        monkeypatch.setattr(Processes, "gather", lambda self, value: {})
        MetaTrainer(tiny(), tmp_path / "run", processes=Processes(1, 2)).train()
        assert not (tmp_path / "run").exists()
