"""Two recipes as configurations: one per rule, and nothing else between them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import meta_train
from l2o import PRESETS, RuleConfig
from l2o.nets import FeedForwardConfig, LSTMConfig, NFNConfig, NGGNNConfig, NGTConfig
from l2o.rule.config import NominalHeadConfig, ScaleFreeFeaturesConfig
from meta_train.config import load_config
from meta_train.loop import MetaTrainer
from meta_train.meta_optimizer import learning_rate
from meta_train.task_config import TaskConfig

FOLDER = Path(meta_train.__file__).parent / "configs"
FILES = sorted([*FOLDER.glob("paper/*.yaml"), *FOLDER.glob("ours/*.yaml")])


def released(name):
    """Return a preset with the fault of the released read-out."""
    config = PRESETS[name]
    return replace(config, net=replace(config.net, readout="released"))


def ours(net):
    """Return the rule of a net as it was when our recipe ran."""
    clock = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
    return RuleConfig(
        net=net,
        features=ScaleFreeFeaturesConfig(time_scales=clock),
        head=NominalHeadConfig(unit="one", scaled="adam", max_log_scale=4.0),
    )


RULES = {
    "paper-ff": "paper-ff",
    "paper-lstm": "paper-lstm",
    "paper-nfn": "paper-nfn",
    "paper-ng-gnn": "paper",
    "paper-ng-gnn-released": released("paper"),
    "paper-ng-t": "paper-ng-t",
    "paper-ng-t-released": released("paper-ng-t"),
    "ours-ff": ours(FeedForwardConfig()),
    "ours-lstm": ours(LSTMConfig()),
    "ours-nfn": ours(NFNConfig()),
    "ours-ng-gnn": ours(NGGNNConfig()),
    "ours-ng-t": ours(NGTConfig()),
}


@pytest.fixture(params=FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def config(request):
    return load_config(request.param)


@pytest.fixture
def paper():
    return load_config(FOLDER / "paper" / "ff.yaml")


def test_there_is_one_a_rule():
    configs = map(load_config, FILES)
    assert {config.name: config.rule for config in configs} == RULES


def test_those_of_a_recipe_differ_in_the_rule_alone(config):
    first = load_config(FOLDER / config.name.partition("-")[0] / "ff.yaml")
    assert config == replace(first, name=config.name, rule=config.rule)


def test_both_recipes_take_as_many_inner_steps(config):
    steps = config.outer_steps * config.num_tasks * config.steps_per_outer
    assert steps == 100_000


def test_rules_are_chosen_alike(config, paper):
    assert config.validation == paper.validation
    assert paper.validation.select == "accuracy"


def test_the_papers_problems_are_fresh_and_a_hundred_steps_long(paper):
    assert (paper.num_tasks, paper.steps_per_outer) == (1, 100)
    assert paper.unroll == (100, 100)
    assert [learning_rate(paper, step) for step in (0, 500)] == [3e-4, 1.5e-4]


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
        problems.add(trainer.runners[0].problem)
    assert len(problems) == 2
    moved = [
        not torch.equal(before[name], item)
        for name, item in trainer.rule.named_parameters()
    ]
    assert all(moved)
