"""What an optimizer is tried on: fresh networks, batches, a loss, held-out data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimizees import Batch, ImageData, Task

Criterion: TypeAlias = Literal["cross-entropy", "squared error"]


class Batches(Protocol):
    """Endless training batches."""

    def next(self) -> Batch:
        """Return the next batch."""
        ...


class Measured(NamedTuple):
    """How well a network does on held-out data."""

    loss: float
    """Mean loss: nats for the cross-entropy, mean square for the squared error."""
    accuracy: float | None
    """Share of targets that the largest logit hits; None without classes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """One training problem. It runs the module itself, as any user's loop does."""

    name: str
    """A short name for logs and results."""
    source: str
    """Which data this is, as words that can stand beside a result."""
    init_model: Callable[[int], nn.Module]
    """Builds the fresh network of a seed."""
    batches: Callable[[int], Batches]
    """The training batches of a seed."""
    held_out: Sequence[Batch]
    """What to evaluate on, in pieces that fit into memory."""
    criterion: Criterion = "cross-entropy"
    """The loss: over the last axis of the outputs, or between outputs and targets."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of one batch, with autograd's graph."""
        return self._mean_loss(model(batch.inputs), batch.targets)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Measured:
        """Return the loss and the accuracy over all held-out data, in eval mode."""
        loss, hits, count = 0.0, 0, 0
        model.eval()
        try:
            for batch in self.held_out:
                outputs = model(batch.inputs)
                loss += (
                    len(batch.targets) * self._mean_loss(outputs, batch.targets).item()
                )
                count += len(batch.targets)
                if self.criterion == "cross-entropy":
                    hits += int((outputs.argmax(-1) == batch.targets).sum())
        finally:
            model.train()
        targets = sum(batch.targets.numel() for batch in self.held_out)
        has_classes = self.criterion == "cross-entropy" and math.isfinite(loss)
        return Measured(loss / count, hits / targets if has_classes else None)

    def _mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        match self.criterion:
            case "cross-entropy":
                return functional.cross_entropy(
                    outputs.flatten(0, -2), targets.flatten()
                )
            case "squared error":
                return functional.mse_loss(outputs, targets)
            case _:
                assert_never(self.criterion)


def cut(batch: Batch, piece: int = 1000) -> list[Batch]:
    """Return a large batch in pieces of at most `piece` examples, sharing memory."""
    inputs, targets = batch.inputs.split(piece), batch.targets.split(piece)
    return [Batch(*pair) for pair in zip(inputs, targets, strict=True)]


def classify(task: Task, held_out: ImageData, *, source: str | None = None) -> Workload:
    """Return a workload that trains a task's networks and evaluates on held-out images.

    Args:
        task: networks and training data.
        held_out: images of the same shape.
        source: which data this is; by default what the task's data says.
    """
    held_out = held_out.to(task.device)
    return Workload(
        name=task.name,
        source=task.data.source if source is None else source,
        init_model=task.init_model,
        batches=task.batches,
        held_out=cut(Batch(held_out.images, held_out.labels)),
    )
