"""Meta-gradients: how the loss of trained networks says where theta should go.

Every estimator advances an inner run, finds for each of its updates the derivative of
the meta-loss by that update (the cotangent), and replays the rule against it.
Features and state are constants in all of them: no derivative flows from one inner
step's update into the next one's input.
"""

from typing import NamedTuple, assert_never

import torch
from torch import Tensor

from l2o.optim.rule import Params

from .config import (
    EstimatorConfig,
    FirstOrderConfig,
    ImitationConfig,
    OneStepConfig,
)
from .teacher import Teacher
from .unroll import InnerRun, Record, replay

_SMALLEST_LOSS = 1e-3
"""In nats; below it the logarithm of a batch loss is taken as linear."""


class Progress(NamedTuple):
    """What an inner run did while a meta-gradient was taken."""

    losses: list[float]
    """Loss on each step's fresh batch, in nats."""


def add_meta_gradient(
    config: EstimatorConfig, run: InnerRun, steps: int, generator: torch.Generator
) -> Progress:
    """Advance `run` by `steps` inner steps and add a meta-gradient to theta's `.grad`.

    Args:
        config: which estimator.
        run: the inner problem; it ends early if it diverges.
        steps: inner steps to take.
        generator: draws the steps that are replayed.
    """
    match config:
        case OneStepConfig():
            return _one_step(config, run, steps, generator)
        case FirstOrderConfig():
            losses: list[float] = []
            for _ in range(steps // config.window):
                if not run.is_over:
                    losses += _first_order_window(config, run, generator)
            return Progress(losses)
        case ImitationConfig():
            return _imitation(config, run, steps, generator)
        case _:
            assert_never(config)


def _one_step(
    config: OneStepConfig, run: InnerRun, steps: int, generator: torch.Generator
) -> Progress:
    """Greedy: every update is judged by the loss after it, on the same batch."""
    records: list[Record] = []
    cotangents: list[Params] = []
    losses: list[float] = []
    for _ in range(steps):
        batch = run.batch
        records.append(run.step())
        _, after = run.task.loss_and_grads(run.params, batch)
        cotangents.append(after)
        losses.append(run.measure())
        if run.is_over:
            break
    replay(run.bound, records, cotangents, share=config.replay, generator=generator)
    return Progress(losses)


def _first_order_window(
    config: FirstOrderConfig, run: InnerRun, generator: torch.Generator
) -> list[float]:
    """Every update is judged by the losses on fresh batches until the window ends.

    With features constant, the loss k steps later depends on update t through the sum
    of updates alone, so its derivative is that later step's own gradient.
    """
    records: list[Record] = []
    later: list[Params] = []
    losses: list[float] = []
    for _ in range(config.window):
        records.append(run.step())
        losses.append(run.measure())
        later.append(run.grads)
        if run.is_over:
            break
    total = {name: torch.zeros_like(grad) for name, grad in later[-1].items()}
    cotangents: list[Params] = []
    num_counted = max(1, round(config.tail * len(records)))
    for age, (loss, grads) in enumerate(zip(losses[::-1], later[::-1], strict=True)):
        scale = 1.0 / num_counted if age < num_counted else 0.0
        if config.objective == "log":
            scale /= max(loss, _SMALLEST_LOSS)
        total = {
            name: config.discount * total[name] + scale * grads[name] for name in total
        }
        cotangents.append(total)
    cotangents.reverse()
    replay(run.bound, records, cotangents, share=config.replay, generator=generator)
    return losses


def _imitation(
    config: ImitationConfig, run: InnerRun, steps: int, generator: torch.Generator
) -> Progress:
    """Every update is judged by its squared distance from the teacher's, relatively."""
    records: list[Record] = []
    cotangents: list[Params] = []
    losses: list[float] = []
    teacher = Teacher(config, step_size=run.bound.rule.step_size)
    for _ in range(steps):
        record = run.step()
        targets = teacher(run.bound.graph, record.params, record.grads, record.state)
        cotangents.append(
            {
                name: _relative_error(run.params[name] - param, targets[name])
                for name, param in record.params.items()
            }
        )
        records.append(record)
        losses.append(run.measure())
        if run.is_over:
            break
    replay(run.bound, records, cotangents, share=config.replay, generator=generator)
    return Progress(losses)


def _relative_error(update: Tensor, target: Tensor) -> Tensor:
    """Return the direction of the squared error, over the size of both.

    With the target's size alone, updates far too long would outweigh all others.
    """
    size = target.square().sum() + update.square().sum() + 1e-12
    return (update - target) / size
