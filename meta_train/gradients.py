"""Meta-gradients by autograd.

All but `tbptt` advance an inner run, find for each of its updates the derivative of
the meta-loss by that update (the cotangent), and replay the rule against it. Features
and state are constants there: no derivative flows from one inner step's update into
the next one's input.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from l2o import NeuralGraph
from l2o.rule.rule import Params
from optimizees import Batch, FunctionalTask

from .estimator_config import (
    FirstOrderConfig,
    ImitationConfig,
    OneStepConfig,
    TBPTTConfig,
)
from .teacher import Teacher
from .unroll import Cotangent, InnerRun, InnerStep, replay

_SMALLEST_LOSS = 1e-3
"""In nats; below it the logarithm of a batch loss is taken as linear."""


def one_step(
    config: OneStepConfig, run: InnerRun, steps: int, generator: torch.Generator
) -> list[float]:
    """Judge every update by the loss after it, on the same batch."""

    def judge(step: InnerStep, batch: Batch) -> Cotangent:
        return partial(_slopes, run.task, run.params, batch, run.buffers)

    return _judge_each(run, steps, judge, share=config.replay, generator=generator)


def _judge_each(
    run: InnerRun,
    steps: int,
    judge: Callable[[InnerStep, Batch], Cotangent],
    *,
    share: float,
    generator: torch.Generator,
) -> list[float]:
    """Advance a run, judge every update where it is made, replay them; return losses.

    Args:
        run: the inner run.
        steps: how many, at most.
        judge: takes a step that was made and the batch of its gradient.
        share: of the steps that are replayed.
        generator: draws them.
    """
    taken: list[InnerStep] = []
    cotangents: list[Cotangent] = []
    unread: list[Tensor] = []
    for _ in range(steps):
        batch = run.batch
        taken.append(run.step())
        cotangents.append(judge(taken[-1], batch))
        unread.append(run.measure())
        if run.is_over:
            break
    losses = run.settle(unread)
    count = len(losses)
    replay(
        run.bound, taken[:count], cotangents[:count], share=share, generator=generator
    )
    return losses


def _slopes(
    task: FunctionalTask, params: Params, batch: Batch, buffers: Params
) -> Params:
    """Return the gradient of a network's loss on one batch."""
    return task.loss_and_grads(params, batch, buffers).grads


def first_order(
    config: FirstOrderConfig, run: InnerRun, steps: int, generator: torch.Generator
) -> list[float]:
    """Judge every update by the losses on fresh batches until its window ends."""
    losses: list[float] = []
    for _ in range(steps // config.window):
        if not run.is_over:
            losses += _first_order_window(config, run, generator)
    return losses


def _first_order_window(
    config: FirstOrderConfig, run: InnerRun, generator: torch.Generator
) -> list[float]:
    """Advance one window and add its gradient.

    With features constant, the loss k steps later depends on update t through the sum
    of updates alone, so its derivative is that later step's own gradient.
    """
    taken: list[InnerStep] = []
    later: list[Params] = []
    unread: list[Tensor] = []
    for _ in range(config.window):
        taken.append(run.step())
        unread.append(run.measure())
        later.append(run.grads)
        if run.is_over:
            break
    losses = run.settle(unread)
    taken, later = taken[: len(losses)], later[: len(losses)]
    total = {name: torch.zeros_like(grad) for name, grad in later[-1].items()}
    cotangents: list[Cotangent] = []
    num_counted = max(1, round(config.tail * len(taken)))
    for age, (loss, grads) in enumerate(zip(losses[::-1], later[::-1], strict=True)):
        scale = 1.0 / num_counted if age < num_counted else 0.0
        if config.objective == "log":
            scale /= max(loss, _SMALLEST_LOSS)
        total = {
            name: config.discount * total[name] + scale * grads[name] for name in total
        }
        cotangents.append(partial(dict, total))
    cotangents.reverse()
    replay(run.bound, taken, cotangents, share=config.replay, generator=generator)
    return losses


def tbptt(config: TBPTTConfig, run: InnerRun, steps: int) -> list[float]:
    """Differentiate the losses of whole windows, one update through the next."""
    losses: list[float] = []
    for _ in range(steps // config.window):
        if not run.is_over:
            losses += _tbptt_window(config, run)
    return losses


def _tbptt_window(config: TBPTTConfig, run: InnerRun) -> list[float]:
    """Advance one window with autograd and add its gradient."""
    params, grads, state = run.params, run.grads, run.state
    buffers = run.buffers
    terms: list[Tensor] = []
    for _ in range(min(config.window, run.length - run.position)):
        params, state = run.bound.step(params, grads, state)
        batch = run.batches.next()
        loss, buffers = _twice_differentiable(run.task, params, batch, buffers)
        slopes = torch.autograd.grad(
            loss,
            list(params.values()),
            create_graph=config.second_order,
            retain_graph=True,
            materialize_grads=True,
        )
        grads = dict(zip(params, slopes, strict=True))
        terms.append(loss)
        run.note(loss.detach())
        if run.has_diverged:
            break
    losses = run.settle([term.detach() for term in terms])
    counted = [_counted(config, term) for term in terms[: len(losses)]]
    torch.stack(counted).mean().backward()
    run.move(params, grads, state, buffers, steps=len(losses))
    return losses


def _twice_differentiable(
    task: FunctionalTask, params: Params, batch: Batch, buffers: Params
) -> tuple[Tensor, Params]:
    """Return loss and buffers; the fused attention kernels have one derivative only."""
    with sdpa_kernel(SDPBackend.MATH):
        return task.loss_and_buffers(params, batch, buffers)


def _counted(config: TBPTTConfig, loss: Tensor) -> Tensor:
    """Return the term of one loss in the window's objective."""
    if config.objective == "mean":
        return loss
    # Below the bound the logarithm continues as its tangent, so that slopes remain.
    low = _SMALLEST_LOSS
    return torch.where(loss > low, loss.clamp_min(low).log(), loss / low)


def imitation(
    config: ImitationConfig, run: InnerRun, steps: int, generator: torch.Generator
) -> list[float]:
    """Judge every update by its squared distance from the teacher's, relatively."""
    teacher = Teacher.of(run.bound.rule, config)

    def judge(step: InnerStep, batch: Batch) -> Cotangent:
        return partial(_errors, teacher, run.bound.graph, step, run.params)

    return _judge_each(run, steps, judge, share=config.replay, generator=generator)


def _errors(
    teacher: Teacher, graph: NeuralGraph, step: InnerStep, after: Params
) -> Params:
    """Return, of each parameter, by how much an update misses the teacher's."""
    targets = teacher(graph, step.params, step.grads, step.state)
    return {
        name: _relative_error(after[name] - param, targets[name])
        for name, param in step.params.items()
    }


def _relative_error(update: Tensor, target: Tensor) -> Tensor:
    """Return the direction of the squared error, over the size of both.

    With the target's size alone, updates far too long would outweigh all others.
    """
    size = target.square().sum() + update.square().sum() + 1e-12
    return (update - target) / size
