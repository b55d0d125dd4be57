"""Candidate rules on the validation split: the only data that chooses among them."""

from statistics import mean
from typing import NamedTuple

from optimizees import ImageData, Task

from .unroll import InnerRun, RuleOnGraph


class Validation(NamedTuple):
    """A candidate's mean over the validation seeds."""

    loss: float
    """Cross-entropy on the validation images after the last step, in nats."""
    accuracy: float
    """Share of validation images classified rightly after the last step."""
    train_loss: float
    """Mean loss of the last 50 training batches, in nats."""


def validate(
    task: Task,
    bound: RuleOnGraph,
    images: ImageData,
    *,
    seeds: tuple[int, ...],
    steps: int,
    is_annealed: bool = False,
) -> Validation:
    """Train the task from each seed and measure it on images held out.

    A run that diverges counts with an accuracy of zero and a loss of 10 nats.

    Args:
        task: what is trained, on the training split.
        bound: the candidate rule on the task's graph.
        images: the validation split.
        seeds: of initial parameters and batches.
        steps: inner steps of each run.
        is_annealed: whether a multiplier falls linearly from 1 to 0 over each run.
    """
    results = []
    for seed in seeds:
        run = InnerRun(task, bound, seed=seed, length=steps, is_annealed=is_annealed)
        losses = []
        while not run.is_over:
            run.step()
            losses.append(run.measure())
        if run.has_diverged:
            results.append(Validation(10.0, 0.0, 10.0))
            continue
        score = task.evaluate(run.params, images)
        results.append(Validation(score.loss, score.accuracy, mean(losses[-50:])))
    return Validation(*(mean(values) for values in zip(*results, strict=True)))
