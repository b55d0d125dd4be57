"""A run folder has one owner, and a dead run does not look successful."""

import math
import subprocess
import sys

import pytest
import torch

from l2o.cli import main
from meta_train import inner_problem, log, loop
from meta_train.config import save_config
from meta_train.folder_lock import FolderLock
from meta_train.log import JsonLines, read_json_lines
from meta_train.loop import MetaTrainer

pytest.importorskip("fcntl", reason="no such locks on this system")


class TestOwner:
    def test_a_second_trainer_is_refused_while_the_first_lives(self, tiny, tmp_path):
        first = MetaTrainer(tiny(), tmp_path)
        first.train(until=1)
        again = MetaTrainer(tiny(), tmp_path, resume=True)
        before = (tmp_path / "log.jsonl").read_bytes()
        with pytest.raises(BlockingIOError, match=r"uses\. Wait until it ends"):
            MetaTrainer(tiny(), tmp_path, resume=True)
        assert (tmp_path / "log.jsonl").read_bytes() == before
        again.train()
        MetaTrainer(tiny(), tmp_path, resume=True)

    def test_another_process_is_named(self, tmp_path):
        code = (
            "import sys; from pathlib import Path;"
            "from meta_train.folder_lock import FolderLock;"
            "lock = FolderLock(Path(sys.argv[1]));"
            "print('held', flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with other:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(BlockingIOError, match=f"process {other.pid} uses"):
                FolderLock(tmp_path)
            other.kill()
        FolderLock(tmp_path).release()

    def test_no_folder_is_made_where_nothing_can_be_resumed(self, tiny, tmp_path):
        with pytest.raises(FileNotFoundError, match="Start the run without"):
            MetaTrainer(tiny(), tmp_path / "typo", resume=True)
        assert not (tmp_path / "typo").exists()


class TestDeadRun:
    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch):
        monkeypatch.setattr(loop, "_MAX_SKIPPED_IN_A_ROW", 2)

    def break_theta(self, monkeypatch, value):
        original = inner_problem.add_meta_gradient

        def broken(config, problem, *args):
            losses = original(config, problem, *args)
            weight = next(problem.bound.rule.parameters())
            weight.grad.fill_(value)
            return losses

        monkeypatch.setattr(inner_problem, "add_meta_gradient", broken)

    def test_weights_that_are_not_finite_end_it(self, tiny, tmp_path, monkeypatch):
        trainer = MetaTrainer(tiny(), tmp_path)
        trainer.train(until=2)
        files = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
        assert len(files) == 2
        trainer = MetaTrainer(tiny(), tmp_path, resume=True)
        original = trainer.meta_optimizer.step

        def step():
            original()
            with torch.no_grad():
                trainer.trained[0].view(-1)[0] = math.nan

        monkeypatch.setattr(trainer.meta_optimizer, "step", step)
        with pytest.raises(
            ValueError, match=r"outer step 3 .*Lower meta_optimizer\.lr"
        ):
            trainer.train()
        assert all(path.read_bytes() == old for path, old in files.items())
        assert MetaTrainer(tiny(), tmp_path, resume=True).outer_step == 2

    def test_so_do_meta_gradients_that_never_are(
        self, tiny, tmp_path, monkeypatch, capsys
    ):
        self.break_theta(monkeypatch, math.nan)
        validation = {"every": 100, "steps": 1, "seeds": [1]}
        config = tiny(outer_steps=50, validation=validation)
        save_config(config, tmp_path / "run.yaml")
        folder = tmp_path / "run"
        words = ["meta-train", str(tmp_path / "run.yaml"), "--folder", str(folder)]
        assert main(words) == 1
        assert "got 2 in a row" in capsys.readouterr().err
        assert not (folder / "best.safetensors").exists()

    def test_a_finite_run_goes_on(self, tiny, tmp_path, monkeypatch):
        self.break_theta(monkeypatch, 0.0)
        MetaTrainer(tiny(outer_steps=4), tmp_path).train()


class TestLog:
    def write(self, path, count):
        written = JsonLines(path)
        for step in range(count):
            written.write(outer_step=step)
        return path.read_bytes()

    def test_what_goes_on_is_appended(self, tmp_path, monkeypatch):
        before = self.write(tmp_path / "log.jsonl", 3)

        def fail(path, content):
            raise AssertionError("nothing has to be written")

        monkeypatch.setattr(log, "write_whole", fail)
        JsonLines(tmp_path / "log.jsonl", last_step=2).write(outer_step=3)
        assert (tmp_path / "log.jsonl").read_bytes().startswith(before)

    def test_a_full_disk_loses_no_line(self, tmp_path, monkeypatch):
        before = self.write(tmp_path / "log.jsonl", 69)

        def full(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(log, "write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            JsonLines(tmp_path / "log.jsonl", last_step=23)
        assert (tmp_path / "log.jsonl").read_bytes() == before

    def test_what_came_after_the_checkpoint_is_dropped(self, tmp_path):
        self.write(tmp_path / "log.jsonl", 5)
        JsonLines(tmp_path / "log.jsonl", last_step=2)
        steps = [item["outer_step"] for item in read_json_lines(tmp_path / "log.jsonl")]
        assert steps == [0, 1, 2]
