"""Meta-train in child processes that are killed at random moments, and resume.

Run as a script: the modules are imported once, every attempt is a fork of it. A run is
that of a YAML file, or one that Python starts, on a task with running statistics.
"""

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

import meta_train
from l2o import RuleConfig
from l2o.nets.config import FeedForwardConfig
from meta_train.config import ValidationConfig, load_config
from meta_train.estimator_config import FirstOrderConfig
from meta_train.loop import MetaTrainer
from optimizees import Batch, BatchSampler, Task


def run_yaml(config, folder, resume):
    MetaTrainer(load_config(config), folder, resume=resume).train()


def run_python(_, folder, resume):
    inputs = torch.linspace(-1, 1, 32)[:, None]
    data = Batch(inputs, (3 * inputs).sin())
    task = Task(
        name="sines",
        build_model=lambda: nn.Sequential(
            nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)
        ),
        batches=partial(BatchSampler, data, 8),
        criterion=mse_loss,
        held_out={"validation": [data]},
    )
    meta_train.train(
        task,
        folder=folder,
        resume=resume,
        rule=RuleConfig(net=FeedForwardConfig(width=2, layers=1)),
        estimator=FirstOrderConfig(window=2, replay=0.5),
        outer_steps=20,
        steps_per_outer=4,
        unroll=(5, 30),
        validation=ValidationConfig(every=5, steps=5, seeds=(1,)),
        checkpoint_minutes=1e-6,
        name="sines",
    )


def attempt(run, config, folder, delay):
    """Start or resume a run; kill it after `delay` seconds. Return if it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            is_begun = (folder / "checkpoint.pt").exists()
            run(config, folder, is_begun)
            code = 0
        finally:
            os._exit(code)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) != 0:
        sys.exit(f"a run in {folder} ended with {os.WEXITSTATUS(status)}")
    return False


def main(run, config, home, kills):
    """Run once in peace, then until as many kills have hit; write both numbers."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    attempt(run, config, home / "whole", None)
    longest = time.perf_counter() - started
    draw = random.Random(0)
    hits = 0
    runs = 0
    while hits < kills:
        folder = home / f"killed-{runs}"
        while hits < kills and attempt(
            run, config, folder, draw.uniform(0, longest / 2)
        ):
            hits += 1
        attempt(run, config, folder, None)
        runs += 1
    sys.stdout.write(f"{hits} {runs}\n")


if __name__ == "__main__":
    started_by = {"yaml": run_yaml, "python": run_python}[sys.argv[4]]
    main(started_by, Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
