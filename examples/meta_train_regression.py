"""Meta-train an optimizer on one's own tensors, then train a network with it."""

import argparse
import tempfile
from functools import partial

import torch
from torch import nn
from torch.nn.functional import mse_loss

import meta_train
from l2o import AbstractRule, NeuralGraphOpt
from optimizees import Batch, BatchSampler, Task


def build_model() -> nn.Module:
    """Build a perceptron; batch norm with running statistics is welcome."""
    return nn.Sequential(
        nn.Linear(2, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 1)
    )


def waves(num_points: int, seed: int) -> Batch:
    """Return points of a plane and the height of a wave there."""
    points = torch.rand(num_points, 2, generator=torch.Generator().manual_seed(seed))
    return Batch(points, torch.sin(6 * points.sum(1, keepdim=True)))


TASK = Task(
    name="waves",
    source="2,000 points of a wave",
    build_model=build_model,
    batches=partial(BatchSampler, waves(2000, seed=0), 32),
    criterion=mse_loss,
    held_out={"validation": [waves(500, seed=1)]},
)


def use(rule: AbstractRule, steps: int) -> str:
    """Train a fresh network with a rule, as with any optimizer of PyTorch."""
    model, batches = TASK.init_model(seed=9), TASK.batches(9)
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    before = TASK.evaluate(model, "validation").loss
    for _ in range(steps):
        optimizer.zero_grad()
        TASK.loss(model, batches.next()).backward()
        optimizer.step()
    return f"loss {before:.3f} -> {TASK.evaluate(model, 'validation').loss:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="of meta-training")
    parser.add_argument("--folder", help="where the run is kept, to resume it")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        learned = meta_train.train(
            TASK,
            rule="default-ff",
            folder=arguments.folder or folder,
            outer_steps=arguments.steps,
            steps_per_outer=20,
            unroll=(20, 100),
            resume=arguments.resume,
        )
    print(f"the rule trained on {TASK.source}: {use(learned, steps=200)}")
