"""Candidate rules on the validation split: the only data that chooses among them."""

import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import NamedTuple

import torch

from l2o.rule.rule import Params
from optimizees import FunctionalTask

from .lanes import averaged_params
from .unroll import DIVERGENCE, InnerRun, ProblemStart, RuleOnGraph


class Validation(NamedTuple):
    """A candidate's mean over the validation seeds."""

    loss: float
    """Held-out loss after the last step."""
    metric: float | None
    """The task's metric on the held-out data after the last step, if it has one."""
    train_loss: float
    """Mean loss of the last 50 training batches."""


_STATISTICS_BATCHES = 50
"""Batches from which running statistics are measured again for averaged weights."""
_DIVERGED_LOSS = 10.0
"""The least loss that a diverged run counts."""


def validate(
    task: FunctionalTask,
    bound: RuleOnGraph,
    splits: Sequence[str],
    *,
    seeds: tuple[int, ...],
    steps: int,
    is_annealed: bool = False,
    at_average: bool = False,
) -> list[Validation]:
    """Train the task from each seed and measure it on held-out data.

    A run that diverges counts the larger of 10 and three times its first loss, and the
    metric 0 if higher is better.

    Args:
        task: what is trained, on the training split.
        bound: the candidate rule on the task's graph.
        splits: keys of the task's held-out data, for example ("validation",).
        seeds: of initial parameters and batches.
        steps: inner steps of each run.
        is_annealed: whether a multiplier falls linearly from 1 to 0 over each run.
        at_average: whether the averaged weights are measured, not the latest.

    Returns:
        One record for each of the splits.
    """
    found: list[list[Validation]] = []
    for seed in seeds:
        run = InnerRun(
            ProblemStart(task, bound, seed=seed, length=steps), is_annealed=is_annealed
        )
        average = dict(run.params)
        after_step = partial(_average, run, average) if at_average else None
        losses = run.advance(steps, after_step)
        if run.has_diverged:
            found.append([_diverged(task, run)] * len(splits))
            continue
        train_loss = fmean(losses[-50:])
        params, buffers = run.params, run.buffers
        if at_average:
            params, buffers = average, _statistics(run, average)
        scores = [task.evaluate(params, split, buffers) for split in splits]
        found.append(
            [Validation(item.loss, item.metric, train_loss) for item in scores]
        )
    return [averaged(results) for results in zip(*found, strict=True)]


def _average(run: InnerRun, average: Params) -> None:
    """Update the averaged weights by the latest ones."""
    average.update(averaged_params(average, run.params, run.position - 1))


def _statistics(run: InnerRun, params: Params) -> Params:
    """Return running statistics as they are at other weights, from training batches."""
    buffers = run.buffers
    for _ in range(_STATISTICS_BATCHES if buffers else 0):
        with torch.no_grad():
            batch = run.batches.next()
            _, buffers = run.task.loss_and_buffers(params, batch, buffers)
    return buffers


def averaged(results: Sequence[Validation]) -> Validation:
    """Return the mean of some records; the metric only if all have one."""
    metrics = [item.metric for item in results if item.metric is not None]
    return Validation(
        loss=fmean(item.loss for item in results),
        metric=fmean(metrics) if len(metrics) == len(results) else None,
        train_loss=fmean(item.train_loss for item in results),
    )


def as_record(found: Validation, metric_name: str | None) -> dict[str, float]:
    """Return a validation as a log has it, the metric under its own name."""
    values = {"loss": found.loss}
    if found.metric is not None and metric_name is not None:
        values[metric_name] = found.metric
    return {**values, "train_loss": found.train_loss}


def _diverged(task: FunctionalTask, run: InnerRun) -> Validation:
    """Return what a run counts that diverged."""
    bound = DIVERGENCE * run.first_loss
    loss = max(_DIVERGED_LOSS, bound) if math.isfinite(bound) else _DIVERGED_LOSS
    metric = task.task.metric
    worst = 0.0 if metric is not None and metric.higher_is_better else None
    return Validation(loss=loss, metric=worst, train_loss=loss)
