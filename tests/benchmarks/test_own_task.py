import math

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from benchmarks import own_task
from benchmarks.own_task import OwnTaskConfig, report, run
from l2o import load_rule, read_provenance
from meta_train.log import read_json_lines
from optimizees import Batch, BatchSampler, Task


def sines(device):
    """A task without test data, as a user may have it."""
    inputs = torch.linspace(-2, 2, 64, device=device)[:, None]
    data = Batch(inputs, inputs.sin())
    return Task(
        name="sines",
        build_model=lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)),
        batches=lambda seed: BatchSampler(data, 16, seed),
        criterion=mse_loss,
        held_out={"validation": [data]},
        source="a sine",
    )


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(own_task, "call_factory", lambda name, device: sines(device))
    return OwnTaskConfig(
        compared=("ff", "base"),
        outer_steps=4,
        steps=6,
        seeds=(1, 2),
        threads=None,
        folder=tmp_path / "run",
        results=tmp_path / "some" / "own.jsonl",
    )


def test_rows_pairs_and_the_rule(config):
    run(config, [].append)
    rows = read_json_lines(config.results)
    names = [row["rule"] for row in rows]
    assert names == [name for name in ("trained here", "ff", "base") for _ in (1, 2)]
    assert [row["seed"] for row in rows] == 3 * [1, 2]
    assert all(math.isfinite(row["validation"]["loss"]) for row in rows)
    assert "test" not in rows[0]
    path = config.results.with_suffix(".safetensors")
    assert load_rule(path).config == load_rule("base").config
    assert read_provenance(path)["data"] == "a sine"
    gap = (
        sum(
            rows[i]["validation"]["loss"] - rows[2 + i]["validation"]["loss"]
            for i in (0, 1)
        )
        / 2
    )
    assert f"by {gap:.4f} ± " in report(config.results)


def test_an_interrupted_run_continues_and_a_whole_one_stays(config):
    run(config, [].append)
    before = read_json_lines(config.results)
    lines = []
    run(config, lines.append)
    after = read_json_lines(config.results)
    assert len(read_json_lines(config.folder / "log.jsonl")) >= config.outer_steps
    assert [row["validation"] for row in after] == [row["validation"] for row in before]
    assert after[0]["rule_sha256"] == before[0]["rule_sha256"]


@pytest.mark.parametrize("wrong", [{"outer_steps": 0}, {"seeds": ()}, {"compared": ()}])
def test_there_must_be_something_to_do(config, wrong):
    with pytest.raises(ValueError, match="Raise them"):
        OwnTaskConfig(**wrong)


def test_the_shipped_task_has_parts_that_choose_and_that_count():
    task = own_task.text_gpt(torch.device("cpu"))
    assert set(task.held_out) == {"validation", "test"}
    model = task.init_model(0)
    assert task.loss(model, task.batches(0).next()).isfinite()
