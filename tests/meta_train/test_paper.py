"""The paper's protocol as configurations: one a rule, and nothing else between them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import meta_train
from l2o import PRESETS
from meta_train.config import load_config
from meta_train.loop import MetaTrainer
from meta_train.outer import learning_rate
from meta_train.task_config import TaskConfig

FILES = sorted((Path(meta_train.__file__).parent / "configs" / "paper").glob("*.yaml"))


def released(name):
    """Return a preset with the fault of the released read-out."""
    config = PRESETS[name]
    return replace(config, net=replace(config.net, readout="released"))


RULES = {
    "ff": "paper-ff",
    "lstm": "paper-lstm",
    "nfn": "paper-nfn",
    "ng-gnn": "paper",
    "ng-gnn-released": released("paper"),
    "ng-t": "paper-ng-t",
    "ng-t-released": released("paper-ng-t"),
}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def config(request):
    return load_config(request.param)


def test_there_is_one_a_rule():
    assert {path.stem: load_config(path).rule for path in FILES} == RULES


def test_they_differ_in_the_rule_alone(config):
    first = load_config(FILES[0])
    assert config == replace(first, name=config.name, rule=config.rule)


def test_problems_are_fresh_and_a_hundred_steps_long(config):
    assert (config.outer_steps, config.num_tasks, config.steps_per_outer) == (
        1000,
        1,
        100,
    )
    assert config.unroll == (100, 100)
    assert [learning_rate(config, step) for step in (0, 500)] == [3e-4, 1.5e-4]


def test_two_outer_steps_move_theta(config, tmp_path):
    small = replace(
        config,
        steps_per_outer=2,
        unroll=(2, 2),
        tasks=(TaskConfig(name="fashion-mlp", image_size=7, batch_size=8),),
        compile=False,
        data="embedded",
        device="cpu",
    )
    trainer = MetaTrainer(small, tmp_path / "run")
    assert trainer.rule.config == config.rule_config
    before = {name: item.clone() for name, item in trainer.rule.named_parameters()}
    problems = set()
    for _ in range(2):
        assert trainer.meta_step() > 0
        problems.add(trainer.slots[0].problem)
    assert len(problems) == 2
    moved = [
        not torch.equal(before[name], item)
        for name, item in trainer.rule.named_parameters()
    ]
    assert all(moved)
