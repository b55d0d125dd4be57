"""Train one network with any `torch.optim` optimizer and record how it went."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from l2o import NeuralGraphOpt
from optimizees import ACCURACY, CHARACTER_ACCURACY, Task

BuildOptimizer: TypeAlias = Callable[[nn.Module], Optimizer]
"""Builds the optimizer of one network, for example
`lambda model: torch.optim.Adam(model.parameters(), lr=1e-2)`."""

_ACCURACIES = (ACCURACY, CHARACTER_ACCURACY)

NUM_LAST = 50
"""Steps over which a training loss is averaged."""


_STATISTICS_BATCHES = 100
"""Training batches from which running statistics of averaged weights are measured."""
_STATISTICS_SEED = 10**6
"""Added to the seed of a run for these batches."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How far a run has come after some steps; None where a number is not finite."""

    step: int
    """Steps after which it was asked for; a diverged run may have stopped earlier."""
    train_loss: float | None
    """Mean training loss of the last 50 steps before, in nats."""
    loss: float | None
    """Loss on the held-out data: cross-entropy in nats, or a mean square."""
    accuracy: float | None
    """Share of held-out targets that are hit; None if weights or logits are no numbers
    or if there are no classes."""


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """One training run."""

    losses: list[float]
    """Loss of every batch before its update, in nats; of a diverged run the last one
    may not be finite."""
    curve_every: int
    """Steps that one point of `curve` averages."""
    scores: tuple[Score, ...]
    """One record for each step that was asked for, the last step always."""
    diverged: bool
    """Whether a loss or a weight stopped being finite; the run ended there."""
    optimizer_ms: float
    """Median time of `optimizer.step()`, in milliseconds; 0 if none was taken."""
    loss_ms: float
    """Median time of the forward and backward pass before a step, in milliseconds."""

    @property
    def curve(self) -> list[float | None]:
        """Mean loss of each `curve_every` steps; None where it is not finite."""
        starts = range(0, len(self.losses), self.curve_every)
        blocks = (self.losses[start : start + self.curve_every] for start in starts)
        return [_finite(statistics.fmean(block)) for block in blocks]


@runtime_checkable
class HasModes(Protocol):
    """An optimizer that swaps the weights it trains for those to be evaluated."""

    def train(self) -> object:
        """Load the weights that training continues with."""
        ...

    def eval(self) -> object:
        """Load the weights to be evaluated."""
        ...


def train(
    task: Task,
    build_optimizer: BuildOptimizer,
    *,
    seed: int,
    steps: int,
    split: str,
    curve_every: int = 10,
    evaluate_at: tuple[int, ...] = (),
    label: str | None = None,
) -> TrainingCurve:
    """Train one network of the task and evaluate it on held-out data.

    The same seed gives the same initial weights and the same batches, whatever the
    optimizer. A loss that is not finite ends the run before its update: the run is
    recorded as diverged, with the accuracy of the weights it ended with.

    Args:
        task: what is trained, and what it is evaluated on.
        build_optimizer: builds the optimizer of the fresh network.
        seed: decides initial weights and batches.
        steps: updates to make.
        split: key of the held-out data to evaluate on.
        curve_every: steps that one point of the curve averages.
        evaluate_at: steps after which to evaluate, besides the last one.
        label: shown next to a progress bar if stderr is a terminal; None for no bar.

    Raises:
        ValueError: unless steps and curve_every are positive and every step of
            evaluate_at lies between 1 and steps.
    """
    stops = _check_steps(steps, curve_every, evaluate_at)
    model = task.init_model(seed)
    optimizer = build_optimizer(model)
    _enter_training(optimizer)
    batches = task.batches(seed)
    losses: list[float] = []
    clocks: tuple[list[float], list[float]] = ([], [])
    scores: list[Score] = []
    has_diverged = False
    with _progress(label, steps) as advance:
        for step in range(1, steps + 1):
            batch = batches.next()
            start = now(batch.inputs.device)
            optimizer.zero_grad()
            loss = task.loss(model, batch)
            loss.backward()
            middle = now(batch.inputs.device)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                has_diverged = True
                break
            resumed = now(batch.inputs.device)
            optimizer.step()
            clocks[0].append(now(batch.inputs.device) - resumed)
            clocks[1].append(middle - start)
            advance()
            if step in stops:
                scores.append(
                    _score(task, split, model, optimizer, step, losses, seed=seed)
                )
                has_diverged |= scores[-1].loss is None
                if has_diverged:
                    break
    scores += [
        _score(task, split, model, optimizer, stop, losses, seed=seed)
        for stop in stops[len(scores) :]
    ]
    return TrainingCurve(
        losses=losses,
        curve_every=curve_every,
        scores=tuple(scores),
        diverged=has_diverged,
        optimizer_ms=_median_ms(clocks[0]),
        loss_ms=_median_ms(clocks[1]),
    )


def _score(
    task: Task,
    split: str,
    model: nn.Module,
    optimizer: Optimizer,
    step: int,
    losses: list[float],
    *,
    seed: int,
) -> Score:
    """Evaluate the weights, averaged ones where the optimizer keeps them.

    A run cut short has no training loss.
    """
    last = losses[-NUM_LAST:] if len(losses) == step else [math.nan]
    train_loss = _finite(statistics.fmean(last))
    if isinstance(optimizer, HasModes):
        optimizer.eval()
    try:
        if not all(bool(param.isfinite().all()) for param in model.parameters()):
            return Score(step=step, train_loss=train_loss, loss=None, accuracy=None)
        if isinstance(optimizer, NeuralGraphOpt) and optimizer.keeps_average:
            with optimizer.averaged():
                averaged = _with_statistics(task, model, seed)
            found = task.evaluate(averaged, split)
        else:
            found = task.evaluate(model, split)
    finally:
        _enter_training(optimizer)
    return Score(
        step=step,
        train_loss=train_loss,
        loss=_finite(found.loss),
        accuracy=found.metric if task.metric in _ACCURACIES else None,
    )


def _with_statistics(task: Task, model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network whose batch norms are measured again.

    Their running statistics are those of training batches, in another order.
    """
    network = copy.deepcopy(model)
    if any(hasattr(module, "running_mean") for module in network.modules()):
        batches = task.batches(seed + _STATISTICS_SEED)
        inputs = (batches.next().inputs for _ in range(_STATISTICS_BATCHES))
        update_bn(inputs, network)
    return network


def _enter_training(optimizer: Optimizer) -> None:
    if isinstance(optimizer, HasModes):
        optimizer.train()


@contextmanager
def _progress(label: str | None, steps: int) -> Iterator[Callable[[], object]]:
    """Yield a function that advances a progress bar, if there is one."""
    if label is None:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=steps, desc=label, leave=False, disable=None) as bar:
        yield bar.update


def now(device: torch.device) -> float:
    """Return the time in seconds after all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _median_ms(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds) if seconds else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_steps(
    steps: int, curve_every: int, evaluate_at: tuple[int, ...]
) -> list[int]:
    """Return the steps after which to evaluate, in order."""
    if steps < 1 or curve_every < 1:
        raise ValueError(
            f"train needs steps and curve_every of at least 1; got steps={steps}, "
            f"curve_every={curve_every}. Choose positive numbers."
        )
    if not all(1 <= stop <= steps for stop in evaluate_at):
        raise ValueError(
            f"train needs evaluate_at between 1 and steps={steps}; got "
            f"{evaluate_at}. Leave those steps out, or train for longer."
        )
    return sorted({*evaluate_at, steps})
