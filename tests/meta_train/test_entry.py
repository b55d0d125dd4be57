"""`meta_train.train`: the run of a YAML file, started from Python."""

import random
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import meta_train
import meta_train.config
from l2o import Rule, RuleConfig, load_rule, read_provenance
from l2o.nets.config import FeedForwardConfig
from meta_train import entry, inner_problem, loop
from meta_train.config import ValidationConfig
from meta_train.estimator_config import FirstOrderConfig
from meta_train.log import read_json_lines
from optimizees import Batch, BatchSampler, Task

SETTINGS = {
    "rule": RuleConfig(net=FeedForwardConfig(width=2, layers=1)),
    "estimator": FirstOrderConfig(window=2, replay=0.5),
    "outer_steps": 3,
    "num_tasks": 2,
    "steps_per_outer": 2,
    "unroll": (3, 12),
    "validation": ValidationConfig(every=2, steps=2, seeds=(1,)),
}


def regression(name, normed=False, **changes):
    """Regression on tensors; with batch norm that keeps running statistics."""
    inputs = torch.linspace(-1, 1, 32)[:, None]
    data = Batch(inputs, (3 * inputs).sin())

    def build():
        norm = nn.BatchNorm1d(8) if normed else nn.Identity()
        return nn.Sequential(nn.Linear(1, 8), norm, nn.Tanh(), nn.Linear(8, 1))

    values = {
        "name": name,
        "source": f"points of {name}",
        "build_model": build,
        "batches": partial(BatchSampler, data, 8),
        "criterion": mse_loss,
        "held_out": {"validation": [data]},
    }
    return Task(**{**values, **changes})


TASKS = [regression("plain"), regression("normed", normed=True)]


def train(folder, **changes):
    return meta_train.train(TASKS, folder=folder, **{**SETTINGS, **changes})


def outcome(folder):
    """Return everything that a run decides: weights and log, without times."""
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)["theta"]
    log = [
        {name: value for name, value in record.items() if name != "seconds"}
        for record in read_json_lines(folder / "log.jsonl")
    ]
    return {name: weight.tolist() for name, weight in weights.items()}, log


class TestTrain:
    def test_it_returns_the_best_rule(self, tmp_path):
        rule = train(tmp_path)
        assert isinstance(rule, Rule)
        best = load_rule(str(tmp_path / "best.safetensors"))
        for name, weight in rule.state_dict().items():
            assert torch.equal(weight, best.state_dict()[name])
        losses = [
            record["validation"]["loss"]
            for record in read_json_lines(tmp_path / "log.jsonl")
            if "validation" in record
        ]
        provenance = read_provenance(tmp_path / "best.safetensors")
        assert provenance["validation"]["loss"] == min(losses)
        assert provenance["tasks"] == ["plain", "normed"]
        assert provenance["data"] == "points of plain; points of normed"
        assert provenance["config"]["tasks"][0]["name"] == "plain"

    def test_validation_tasks_may_be_others(self, tmp_path):
        train(tmp_path, validation_tasks=regression("other"))
        record = read_json_lines(tmp_path / "log.jsonl")[-1]
        assert list(record["validation_tasks"]) == ["other"]
        assert set(record["validation"]) == {"loss", "train_loss"}

    def test_what_cannot_be_trained_on_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"called 'plain'\. Rename one"):
            meta_train.train([TASKS[0], regression("plain")], folder=tmp_path)
        with pytest.raises(ValueError, match="Build the task with held_out"):
            meta_train.train(regression("bare", held_out={}), folder=tmp_path)
        with pytest.raises(ValueError, match="train needs at least one task"):
            meta_train.train([], folder=tmp_path)
        moved = regression("moved").to("meta")
        with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]\. Pass device="):
            meta_train.train([TASKS[0], moved], folder=tmp_path)

    def test_a_run_is_not_overwritten(self, tmp_path):
        train(tmp_path, until=1)
        with pytest.raises(FileExistsError, match="--resume"):
            train(tmp_path)

    def test_its_yaml_names_the_tasks_that_python_must_pass(self, tmp_path):
        train(tmp_path, until=1)
        config = loop.load_checkpoint(tmp_path / "checkpoint.pt")["config"]
        assert [task["kind"] for task in config["tasks"]] == ["given", "given"]
        values = meta_train.config.load_config(tmp_path / "config.yaml")
        with pytest.raises(ValueError, match=r"Start the run with.*meta_train\.train"):
            entry.run(values, tmp_path / "other")


class Killed(BaseException):
    """A death of the process at some call."""


def kill_at(monkeypatch, call, name):
    """Let a call of some function never return."""
    room = {"add_meta_gradient": inner_problem}.get(name, loop)
    original, calls = getattr(room, name), []

    def sometimes(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(room, name, sometimes)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_it_is_the_uninterrupted_run(
    seed, tmp_path, monkeypatch
):
    """Bit for bit: theta, the log and both rules."""
    often = {"checkpoint_minutes": 1e-9}
    train(tmp_path / "whole", **often)
    draw = random.Random(seed)
    names = ("add_meta_gradient", "validate", "save_checkpoint", "save_rule")
    kills = 0
    while kills < 100:
        kill_at(monkeypatch, draw.randint(1, 3), draw.choice(names))
        resume = (tmp_path / "parts" / "checkpoint.pt").exists()
        try:
            train(tmp_path / "parts", resume=resume, **often)
            break
        except Killed:
            kills += 1
        finally:
            monkeypatch.undo()
    assert kills
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    for name in ("best", "last"):
        rules = [
            load_rule(str(tmp_path / run / f"{name}.safetensors"))
            for run in ("whole", "parts")
        ]
        for weight, other in zip(*(rule.parameters() for rule in rules), strict=True):
            assert torch.equal(weight, other)


def test_the_comparison_can_fail(tmp_path):
    train(tmp_path / "one")
    train(tmp_path / "two", seed=1)
    assert outcome(tmp_path / "one") != outcome(tmp_path / "two")
