import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import CONFIG, GpuCheckConfig, Part, plan, run
from l2o.cli import main
from meta_train.log import read_json_lines


@pytest.fixture
def config(tmp_path):
    return GpuCheckConfig(results=tmp_path / "some" / "check.jsonl")


def part(name, code, limit_s=60.0):
    return Part(
        name=name,
        command=[sys.executable, "-c", code],
        limit_s=limit_s,
        figures=lambda output: {"said": output.strip()},
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "gpu-check"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "got none. Run it where there is one, or pass --rehearse" in line
    assert not list(tmp_path.iterdir())


class TestPlan:
    def test_all_parts_fit_into_ten_minutes(self, tmp_path):
        parts = plan(CONFIG, tmp_path, tmp_path)
        assert [item.name for item in parts] == list(CONFIG.parts)
        assert sum(item.limit_s for item in parts) < 600

    @pytest.mark.parametrize("rehearse", [False, True])
    def test_each_part_runs_on_its_device(self, tmp_path, rehearse):
        wanted, other = ("cpu", "cuda") if rehearse else ("cuda", "cpu")
        for item in plan(replace(CONFIG, rehearse=rehearse), tmp_path, tmp_path):
            assert wanted in item.command
            assert other not in item.command

    def test_parts_can_be_chosen(self, tmp_path):
        config = replace(CONFIG, parts=("meta-train",))
        (item,) = plan(config, tmp_path, tmp_path)
        assert str(tmp_path / "run") in item.command


class TestRun:
    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(gpu_check, "provenance", _origin)

    def check(self, monkeypatch, config, *parts):
        monkeypatch.setattr(gpu_check, "plan", lambda *_: parts)
        run(config, [].append)

    def test_rows_say_what_was_found(self, monkeypatch, config):
        self.check(monkeypatch, config, part("tests", "print('5 passed')"))
        (row,) = read_json_lines(config.results)
        assert (row["part"], row["status"]) == ("tests", "passed")
        assert row["figures"] == {"said": "5 passed"}
        assert "* said: 5 passed" in config.results.with_suffix(".md").read_text()

    def test_a_failure_stops_no_other_part_and_is_raised(self, monkeypatch, config):
        parts = (
            part("tests", "raise SystemExit('no such kernel')"),
            part("step-cost", "import time; time.sleep(60)", limit_s=0.5),
            part("meta-speed", "print('fast')"),
        )
        with pytest.raises(RuntimeError, match="failures of tests, step-cost"):
            self.check(monkeypatch, config, *parts)
        rows = read_json_lines(config.results)
        assert [row["status"] for row in rows] == [
            "failed with exit code 1",
            "stopped at its limit",
            "passed",
        ]
        assert rows[0]["last_lines"] == ["no such kernel"]


def _origin():
    machine = {"gpu": "a GPU", "processor": "some", "threads": 1}
    return {"commit": "0", "versions": {"torch": "2"}, "machine": machine}


def test_figures_of_tests():
    line = "3 failed, 60 passed, 2 skipped, 9 deselected in 12.03s"
    found = gpu_check._test_figures(line)
    assert found == {"failed": 3, "passed": 60, "skipped": 2}


@pytest.mark.slow
def test_a_rehearsal_passes(tmp_path, monkeypatch):
    """The tests and the recipe, on the CPU in tiny sizes."""
    monkeypatch.chdir(tmp_path)
    run(GpuCheckConfig(parts=("tests", "meta-train"), rehearse=True), print)
    rows = read_json_lines(tmp_path / "runs" / "gpu-check" / "gpu-check.jsonl")
    assert [row["status"] for row in rows] == ["passed", "passed"]
    assert rows[0]["figures"]["passed"] >= 5
    assert rows[1]["figures"]["outer steps"] == 2
