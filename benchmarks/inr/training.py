"""Train a network on networks: exactly resumable, selected on validation."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from meta_train.resume import load_checkpoint, save_checkpoint
from meta_train.schedules import cosine_factor
from optimizees.zoo.inr_augmentations import AugmentationConfig, augment

from .data import Splits
from .tasks import AbstractInrTask, Measure, in_parts

Say: TypeAlias = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is trained; the defaults are the paper's for classification."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    epochs: int = 200
    """Most passes over the training set."""
    seconds: float | None = None
    """Most seconds of training; the last epoch that fits is finished. None for any."""
    patience: int | None = None
    """Epochs without a better validation score after which to stop; None never stops.
    The weights of the best one count in any case."""
    batch_size: int = 128
    """Networks a step."""
    lr: float = 1e-3
    """Step size of AdamW with AMSGrad."""
    weight_decay: float = 5e-4
    """Of AdamW."""
    warmup_steps: int = 1000
    """Steps over which the step size rises from 0, in a line."""
    decay: Literal["none", "cosine"] = "none"
    """Whether the step size then falls to 0 along half a cosine, over all epochs; a run
    that `seconds` or `patience` ends does not get that far."""
    clip: float = 10.0
    """Largest norm of the gradient."""
    save_seconds: float = 60.0
    """Seconds between two checkpoints: what an interrupt loses."""

    def __post_init__(self) -> None:
        counts = (self.epochs, self.batch_size, self.patience or 1)
        amounts = (self.lr, self.clip, self.seconds or 1.0)
        not_negative = (self.weight_decay, self.warmup_steps, self.save_seconds)
        if min(counts) < 1 or min(amounts) <= 0 or min(not_negative) < 0:
            raise ValueError(
                "TrainingConfig needs positive epochs, batch_size, patience, lr, clip "
                f"and seconds, and nothing below zero; got {self}. Raise what is not."
            )


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training set."""

    train_loss: float
    """Mean loss while training, with dropout and augmentation."""
    validation: Measure
    """On the networks that select."""
    test_loss: float
    """Mean loss on the test set; for curves, it decides nothing."""
    seconds: float
    """Time of the training steps."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run."""

    epochs: tuple[Epoch, ...]
    """One for each pass."""
    best_epoch: int
    """The pass with the best validation score, the first is 1."""
    test: Measure
    """Of the weights after that pass."""
    steps: int
    """Updates in all."""
    networks_per_second: float
    """Networks that a second of training took in, on average."""


class Run:
    """One network in training; all that changes can be saved and restored.

    Args:
        task: the loss.
        model: what is trained, freshly drawn.
        splits: the networks.
        config: how.
        augmentation: of the training networks; None for none.
        part: networks to differentiate at a time; None for whole batches.
        seed: decides batches, augmentation and dropout.
    """

    def __init__(
        self,
        task: AbstractInrTask,
        model: nn.Module,
        splits: Splits,
        config: TrainingConfig,
        *,
        augmentation: AugmentationConfig | None,
        part: int | None,
        seed: int,
    ) -> None:
        self.task = task
        self.model = model
        self.splits = splits
        self.config = config
        self.augmentation = augmentation
        self.part = config.batch_size if part is None else part
        self.wanted = task.targets(splits.train)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            amsgrad=True,
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = torch.Generator().manual_seed(seed + 1_000_003).get_state()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.order = torch.empty(0, dtype=torch.int64)
        self.place = 0
        self.steps = 0
        self.loss_sum = 0.0
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        """Return all that changes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        for name in _PLAIN:
            setattr(self, name, state[name])

    def step(self) -> None:
        """Take the next batch; the last one of an epoch ends it."""
        started = time.perf_counter()
        if self.place == 0:
            count = len(self.splits.train)
            self.order = torch.randperm(count, generator=self.generator)
        chosen = self.order[self.place : self.place + self.config.batch_size]
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.noise)
            self.loss_sum += self._update(chosen)
            self.noise = torch.get_rng_state()
        self.place += len(chosen)
        self.steps += 1
        self.seconds += time.perf_counter() - started
        if self.place == len(self.order):
            self._end_epoch()

    def _update(self, chosen: Tensor) -> float:
        """Make one step of the optimizer; return the sum of the losses."""
        networks = {
            name: weight[chosen] for name, weight in self.splits.train.networks.items()
        }
        if self.augmentation is not None:
            networks = augment(networks, self.augmentation, self.generator)
        self.model.train()
        self.optimizer.zero_grad()
        total = 0.0
        for batch, wanted in in_parts(networks, self.wanted[chosen], self.part):
            losses, _ = self.task.losses(self.model, batch, wanted)
            (losses.sum() / len(chosen)).backward()
            total += float(losses.detach().sum())
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self._share_of_lr()
        self.optimizer.step()
        return total

    def _share_of_lr(self) -> float:
        """Return the factor of the next step's size."""
        config = self.config
        if config.decay == "none":
            return min(1.0, (self.steps + 1) / max(1, config.warmup_steps))
        steps = config.epochs * math.ceil(len(self.splits.train) / config.batch_size)
        return cosine_factor(self.steps, steps, warmup_steps=config.warmup_steps)

    def _end_epoch(self) -> None:
        """Evaluate, and keep the weights if they are the best."""
        found = Epoch(
            train_loss=self.loss_sum / len(self.order),
            validation=self.task.evaluate(self.model, self.splits.validation),
            test_loss=self.task.evaluate(self.model, self.splits.test).loss,
            seconds=self.seconds,
        )
        scores = [item["validation"]["score"] for item in self.history]
        if not scores or found.validation.score > max(scores):
            self.best = {
                name: weight.clone() for name, weight in self.model.state_dict().items()
            }
        self.history.append(asdict(found))
        self.place, self.loss_sum, self.seconds = 0, 0.0, 0.0

    @property
    def best_epoch(self) -> int:
        """The pass with the best validation score; of equal ones the first."""
        scores = [item["validation"]["score"] for item in self.history]
        return 1 + scores.index(max(scores))

    @property
    def is_over(self) -> bool:
        """Whether the epochs, the time or the patience are used up."""
        if self.place or not self.history:
            return False
        config = self.config
        times = [item["seconds"] for item in self.history]
        has_time = config.seconds is None or sum(times) + times[-1] <= config.seconds
        waited = len(self.history) - self.best_epoch
        is_patient = config.patience is None or waited < config.patience
        return len(self.history) >= config.epochs or not has_time or not is_patient

    def outcome(self) -> Outcome:
        """Return what the run led to; the model has the best weights afterwards."""
        self.model.load_state_dict(self.best)
        return Outcome(
            epochs=tuple(
                Epoch(**{**item, "validation": Measure(**item["validation"])})
                for item in self.history
            ),
            best_epoch=self.best_epoch,
            test=self.task.evaluate(self.model, self.splits.test),
            steps=self.steps,
            networks_per_second=len(self.history)
            * len(self.splits.train)
            / sum(item["seconds"] for item in self.history),
        )


_PLAIN = (
    *("noise", "history", "best", "order", "place"),
    *("steps", "loss_sum", "seconds"),
)
"""What of a run is tensors, numbers and lists of them."""


def finish(run: Run, checkpoint: Path, name: str, say: Say) -> Outcome:
    """Train to the end; go on from a checkpoint if there is one.

    Args:
        run: fresh.
        checkpoint: file to write now and then, and to go on from; it stays.
        name: stands before each line about an epoch.
        say: takes those lines.

    Raises:
        ValueError: if the checkpoint is damaged.
    """
    if checkpoint.is_file():
        try:
            run.restore(load_checkpoint(checkpoint))
        except ValueError as error:
            raise ValueError(
                f"{name} needs a whole checkpoint to go on; got {checkpoint}, which "
                "cannot be read. Delete it to start again."
            ) from error
        say(f"{name}: goes on after {run.steps:,} steps")
    saved = time.perf_counter()
    try:
        while not run.is_over:
            run.step()
            if run.place == 0:
                say(f"{name}: {_line(run)}")
            if time.perf_counter() - saved > run.config.save_seconds:
                save_checkpoint(run.state(), checkpoint)
                saved = time.perf_counter()
    except KeyboardInterrupt:
        say(f"{name}: interrupted; the next command goes on from {checkpoint}")
        raise
    save_checkpoint(run.state(), checkpoint)
    return run.outcome()


def _line(run: Run) -> str:
    """Say how the last epoch went."""
    last = run.history[-1]
    found = last["validation"]
    accuracy = (
        "" if found["accuracy"] is None else f", accuracy {found['accuracy']:.2%}"
    )
    return (
        f"epoch {len(run.history)}: training loss {last['train_loss']:.4f}, validation "
        f"loss {found['loss']:.4f}{accuracy}, {last['seconds']:.1f} s"
    )
