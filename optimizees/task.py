"""A task: a network to train, its batches, a loss, a metric, held-out data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from .batches import (
    Batch,
    Batches,
    MappedBatches,
    Mover,
    arguments,
    batches_on,
    num_examples,
)


class Evaluation(NamedTuple):
    """How well a network does on held-out data."""

    loss: float
    """Mean loss over the examples."""
    metric: float | None
    """Mean of the task's metric over the targets; None without a metric, or if the
    loss is not finite."""


@dataclass(frozen=True)
class Metric:
    """A second figure besides the loss, averaged over all held-out targets."""

    name: str
    """A word or two for logs."""
    per_target: Callable[[Any, Any], Tensor]
    """Maps outputs and targets of a batch to one number or truth value per target."""
    higher_is_better: bool = True
    """Which direction is good."""


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(-1) == targets


def _squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square()


ACCURACY = Metric("accuracy", _hits)
"""Share of examples whose largest output is their class."""
CHARACTER_ACCURACY = Metric("character accuracy", _hits)
"""Share of characters whose largest output is the right one."""
MEAN_SQUARED_ERROR = Metric(
    "mean squared error", _squared_errors, higher_is_better=False
)
"""Mean square of the differences between outputs and targets."""


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats.

    Args:
        outputs: logits, [..., classes].
        targets: classes, [...], int64.
    """
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One training problem: any module, any batches, any loss, a metric.

    Nothing here knows about learned optimizers. A task runs the module itself, as any
    training loop does; `FunctionalTask` runs it with parameters passed as a dictionary.

    Example:
        >>> from functools import partial
        >>> from optimizees import Batch, BatchSampler, Task
        >>> inputs = torch.linspace(-1, 1, 64)[:, None]
        >>> data = Batch(inputs, inputs.sin())
        >>> task = Task(
        ...     name="sine",
        ...     build_model=partial(nn.Linear, 1, 1),
        ...     batches=partial(BatchSampler, data, 16),
        ...     criterion=functional.mse_loss,
        ...     held_out={"validation": [data]},
        ... )
        >>> model = task.init_model(seed=0)
        >>> task.loss(model, task.batches(0).next()).backward()
        >>> task.evaluate(model, "validation").metric is None
        True
    """

    name: str
    """A short name for logs and results."""
    build_model: Callable[[], nn.Module]
    """Builds one network, initialised from torch's global generator."""
    batches: Callable[[int], Batches]
    """Returns the endless training batches of a seed."""
    criterion: Callable[[Any, Any], Tensor] = cross_entropy
    """Maps the outputs and targets of a batch to their mean loss, a scalar."""
    metric: Metric | None = None
    """What is measured on held-out data besides the loss."""
    held_out: Mapping[str, Sequence[Batch]] = field(default_factory=dict)
    """What to evaluate on, by split, in batches that fit into memory."""
    source: str = "own data"
    """Which data this is, as words that can stand next to a result."""
    device: torch.device = _CPU
    """Where the batches lie, and with them every parameter."""

    def init_model(self, seed: int) -> nn.Module:
        """Build one fresh network on the task's device.

        Args:
            seed: decides the initial values, on any device; the global generators
                stay as they were.
        """
        # torch.manual_seed would also seed the GPUs, which fork_rng leaves out here.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            model = self.build_model()
        return model.to(self.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of one batch, with autograd's graph."""
        return self.criterion(model(*arguments(batch)), batch.targets)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """Return loss and metric over all held-out data of a split, in eval mode.

        Args:
            model: a network of the task; its modes are restored.
            split: a key of `held_out`, for example "validation".

        Raises:
            ValueError: if the task has no such split.
        """
        losses, counts, values, num_targets = [], [], [], 0
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            for batch in self._split(split):
                outputs = model(*arguments(batch))
                losses.append(self.criterion(outputs, batch.targets))
                counts.append(num_examples(batch))
                if self.metric is not None:
                    found = self.metric.per_target(outputs, batch.targets)
                    exact = found.long() if found.dtype == torch.bool else found
                    values.append(exact.sum())
                    num_targets += found.numel()
        finally:
            for module, mode in modes.items():
                module.training = mode
        # One transfer for all batches; the weighted sum is taken in Python's float64.
        means = torch.stack(losses).tolist()
        loss = sum(count * mean for count, mean in zip(counts, means, strict=True))
        if not values or not math.isfinite(loss):
            return Evaluation(loss / sum(counts), None)
        total = sum(torch.stack(values).tolist())
        return Evaluation(loss / sum(counts), total / num_targets)

    def to(self, device: torch.device | str) -> "Task":
        """Return the task on a device; its data are copied there once.

        Data that already lie there are not copied. Batches of a sampler of one's own,
        which does not hold its data as tensors, are copied as they are drawn.
        """
        place = torch.device(device)
        if place == self.device:
            return self
        build, move = self.batches, Mover(place)
        return replace(
            self,
            batches=lambda seed: batches_on(build(seed), place, move),
            held_out={
                split: [tree_map(move, batch) for batch in batches]
                for split, batches in self.held_out.items()
            },
            device=place,
        )

    def _split(self, split: str) -> Sequence[Batch]:
        if not self.held_out.get(split):
            raise ValueError(
                f"Task.evaluate needs a split with held-out batches; got {split!r}, "
                f"where {self.name} has {sorted(self.held_out) or 'none'}. Pass "
                f"held_out={{{split!r}: [...]}} when you build the task."
            )
        return self.held_out[split]


def restoring(task: Task) -> Task:
    """Return a task whose network must reproduce its inputs, by squared error."""
    build = task.batches
    return replace(
        task,
        batches=lambda seed: MappedBatches(build(seed), _inputs_as_targets),
        criterion=functional.mse_loss,
        metric=None,
        held_out={
            split: [_inputs_as_targets(batch) for batch in batches]
            for split, batches in task.held_out.items()
        },
    )


def _inputs_as_targets(batch: Batch) -> Batch:
    return Batch(batch.inputs, batch.inputs)
