"""Candidate rules on the validation split: the only data that chooses among them."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from optimizees import ImageData, Task

from .unroll import InnerRun, RuleOnGraph


class Validation(NamedTuple):
    """A candidate's mean over the validation seeds."""

    loss: float
    """Cross-entropy on the images after the last step, in nats."""
    accuracy: float
    """Share of the images classified rightly after the last step."""
    train_loss: float
    """Mean loss of the last 50 training batches, in nats."""


DIVERGED = Validation(loss=10.0, accuracy=0.0, train_loss=10.0)
"""What a run counts that diverges."""


def validate(
    task: Task,
    bound: RuleOnGraph,
    splits: Sequence[ImageData],
    *,
    seeds: tuple[int, ...],
    steps: int,
    is_annealed: bool = False,
) -> list[Validation]:
    """Train the task from each seed and measure it on images held out.

    Args:
        task: what is trained, on the training split.
        bound: the candidate rule on the task's graph.
        splits: images, for example the validation split.
        seeds: of initial parameters and batches.
        steps: inner steps of each run.
        is_annealed: whether a multiplier falls linearly from 1 to 0 over each run.

    Returns:
        One record for each of the splits.
    """
    found: list[list[Validation]] = []
    for seed in seeds:
        run = InnerRun(task, bound, seed=seed, length=steps, is_annealed=is_annealed)
        losses = []
        while not run.is_over:
            run.step()
            losses.append(run.measure())
        if run.has_diverged:
            found.append([DIVERGED] * len(splits))
            continue
        train_loss = fmean(losses[-50:])
        scores = [task.evaluate(run.params, images) for images in splits]
        found.append(
            [Validation(item.loss, item.accuracy, train_loss) for item in scores]
        )
    return [averaged(results) for results in zip(*found, strict=True)]


def averaged(results: Sequence[Validation]) -> Validation:
    """Return the mean of some records."""
    return Validation(*(fmean(values) for values in zip(*results, strict=True)))
