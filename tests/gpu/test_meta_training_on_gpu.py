"""Meta-training on a GPU: estimators, whole runs, resuming."""

from functools import partial

import pytest
import torch

import meta_train
from l2o import load_rule
from meta_train.config import ValidationConfig
from meta_train.estimator_config import (
    EvolutionConfig,
    FirstOrderConfig,
    ImitationConfig,
    OneStepConfig,
    TBPTTConfig,
)
from meta_train.estimators import add_meta_gradient, start_problem
from meta_train.log import read_json_lines
from meta_train.unroll import ProblemStart, RuleOnGraph
from optimizees import ConvNet, FunctionalTask, image_task, load_task
from optimizees.data.images import ImageData

STEPS = 4
ESTIMATORS = {
    "one_step": OneStepConfig(),
    "first_order": FirstOrderConfig(window=STEPS, replay=1.0),
    "imitation": ImitationConfig(replay=1.0),
    "tbptt": TBPTTConfig(window=STEPS, second_order=False),
    "nres": EvolutionConfig(pairs=1),
}


def small_task():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(64, 1, 8, 8, generator=generator)
    images = ImageData(pixels, torch.arange(64) % 10, source="noise")
    build = partial(ConvNet, 1, (4,), image_size=8)
    held_out = {"validation": images}
    return image_task("small", build, images, batch_size=16, held_out=held_out)


def meta_gradient(config, rule, device, *, watch=None):
    """Return losses and the gradient of theta after two windows."""
    rule = load_rule(rule).to(device)
    rule.requires_grad_()
    task = FunctionalTask(small_task().to(device))
    bound = RuleOnGraph(rule, task, compile=False)
    run = start_problem(config, ProblemStart(task, bound, seed=0, length=100))
    generator = torch.Generator().manual_seed(0)
    losses = add_meta_gradient(config, run, STEPS, generator)
    losses += add_meta_gradient(config, run, STEPS, generator)
    grads = [w.grad.flatten().cpu() for w in rule.parameters() if w.grad is not None]
    return losses, torch.cat(grads)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("rule", ["ng-gnn", "ng-gnn-neurons"])
def test_the_meta_gradient_is_that_of_the_cpu(gpu, rule, name):
    here = meta_gradient(ESTIMATORS[name], rule, torch.device("cpu"))
    there = meta_gradient(ESTIMATORS[name], rule, gpu)
    torch.testing.assert_close(there[0], here[0], rtol=1e-2, atol=1e-3)
    cosine = torch.cosine_similarity(there[1], here[1], dim=0)
    assert cosine > 0.99


def test_a_run_resumes_there(gpu, tmp_path):
    settings = {
        "rule": "default-ff",
        "outer_steps": 4,
        "num_tasks": 1,
        "steps_per_outer": 5,
        "unroll": (10, 20),
        "validation": ValidationConfig(every=2, steps=5, seeds=(1,)),
        "device": str(gpu),
    }
    meta_train.train(small_task(), folder=tmp_path, until=2, **settings)
    rule = meta_train.train(small_task(), folder=tmp_path, resume=True, **settings)
    steps = [line["outer_step"] for line in read_json_lines(tmp_path / "log.jsonl")]
    assert steps[-1] == 4
    assert all(weight.isfinite().all() for weight in rule.parameters())


@pytest.mark.parametrize("name", ["fashion-mlp", "text-gpt"])
def test_data_lie_there(gpu, name):
    task = load_task(name, batch_size=8, data="embedded", device=gpu)
    batch = task.batches(0).next()
    assert batch.inputs.device.type == batch.targets.device.type == gpu.type
    model = task.init_model(0)
    task.loss(model, batch).backward()
    assert task.evaluate(model, "validation").loss > 0


def test_a_task_moves_there(gpu):
    moved, task = small_task().to(gpu), small_task()
    there, here = moved.batches(3), task.batches(3)
    for _ in range(6):  # more than an epoch
        for one, two in zip(there.next(), here.next(), strict=True):
            assert one.device.type == gpu.type
            assert torch.equal(one.cpu(), two)


def test_an_inner_step_waits_for_nothing(gpu, no_waits):
    rule = load_rule("ng-gnn").to(gpu)
    task = FunctionalTask(small_task().to(gpu))
    bound = RuleOnGraph(rule, task, compile=False)
    run = start_problem(OneStepConfig(), ProblemStart(task, bound, seed=0, length=100))
    run.advance(2)
    run.reads_at_once = False
    with no_waits:
        losses = [run.step() and run.measure() for _ in range(2)]
    assert all(loss.isfinite() for loss in losses)
