"""A network in training on trained networks, which can be saved and restored."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from l2o.config import config_values
from l2o.schedules import cosine_factor

from .batch import NetworkBatch
from .fit_config import Epoch, FitConfig, Fitted
from .network_set import NetworkSet
from .objectives import AbstractObjective, Scores
from .running_norm import one_batch

Augment: TypeAlias = Callable[[NetworkBatch, torch.Generator], NetworkBatch]
"""Returns varied training networks; draws from the given generator, on the CPU."""

EVALUATED = 100
"""Networks that are evaluated at a time where `part` does not say."""


class TrainingRun:
    """A model in training; all that changes can be saved and restored."""

    def __init__(
        self,
        model: nn.Module,
        train: NetworkSet,
        validation: NetworkSet,
        objective: AbstractObjective,
        config: FitConfig,
        *,
        seed: int,
        augment: Augment | None,
        part: int | None,
        one_architecture: bool,
        piece: int,
        curves: Mapping[str, NetworkSet],
    ) -> None:
        self.model, self.objective, self.config = model, objective, config
        self.train, self.validation, self.curves = train, validation, curves
        self.augment, self.part, self.piece = augment, part, piece
        self.one_architecture = one_architecture
        self.device = train.networks.like.device
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            amsgrad=True,
        )
        self.generator = torch.Generator().manual_seed(seed)
        with self._own_noise():
            torch.manual_seed(seed + 1_000_003)
            self.noise = self._noise_state()
        self.identity = _identity(config, seed, len(train), part, piece)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.batches: list[Tensor] = []
        self.taken = 0
        self.steps = 0
        self.shown = 0
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
        """Continue from what `state` returned.

        Raises:
            ValueError: if it is of a run with other settings.
        """
        found = state.get("identity")
        if found != self.identity:
            raise ValueError(f"settings {found} instead of {self.identity}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        for name in _PLAIN:
            setattr(self, name, state[name])

    def step(self) -> None:
        """Take the next batch; the last one of an epoch ends it."""
        started = time.perf_counter()
        if not self.batches:
            self.batches = self.train.shuffled(
                self.config.batch_size, self.generator, piece=self.piece
            )
        chosen = self.batches[self.taken]
        with self._own_noise():
            self._set_noise_state(self.noise)
            self.loss_sum += self._update(self.train[chosen])
            self.noise = self._noise_state()
        self.taken += 1
        self.steps += 1
        self.shown += len(chosen)
        self.seconds += time.perf_counter() - started
        if self.taken == len(self.batches):
            self._end_epoch()

    def _update(self, batch: NetworkSet) -> float:
        """Make one step of the optimizer; return the sum of the losses."""
        if self.augment is not None:
            varied = self.augment(batch.networks, self.generator)
            batch = NetworkSet(varied, batch.targets)
        self.model.train()
        self.optimizer.zero_grad()
        total, count = 0.0, len(batch)
        with one_batch(self.model):
            parts = batch.split(
                count if self.part is None else self.part,
                one_architecture=self.one_architecture,
            )
            for part in parts:
                losses = self.objective.losses(self.model, part.networks, part.targets)
                (losses.sum() / count).backward()
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
        count = len(self.batches)
        done = len(self.history) * count + self.taken
        return cosine_factor(
            done, config.epochs * count, warmup_steps=config.warmup_steps
        )

    def _evaluate(self, data: NetworkSet) -> Scores:
        return evaluate(
            self.model,
            data,
            self.objective,
            part=self.part,
            one_architecture=self.one_architecture,
        )

    def _end_epoch(self) -> None:
        """Evaluate, and keep the weights if they are the best."""
        found = {
            "train_loss": self.loss_sum / len(self.train),
            "validation": self._evaluate(self.validation),
            "curves": {n: self._evaluate(data) for n, data in self.curves.items()},
            "seconds": self.seconds,
        }
        self.history.append(found)
        if self.best_epoch == len(self.history):
            state = self.model.state_dict()
            self.best = {name: weight.clone() for name, weight in state.items()}
        self.batches, self.taken = [], 0
        self.loss_sum, self.seconds = 0.0, 0.0

    @property
    def best_epoch(self) -> int:
        """The pass with the best validation score; of equal ones the first."""
        scores = [_comparable(item["validation"]["score"]) for item in self.history]
        return 1 + scores.index(max(scores))

    @property
    def is_over(self) -> bool:
        """Whether the epochs, the time or the patience are used up."""
        if self.batches or not self.history:
            return False
        config = self.config
        times = [item["seconds"] for item in self.history]
        has_time = config.seconds is None or sum(times) + times[-1] <= config.seconds
        waited = len(self.history) - self.best_epoch
        is_patient = config.patience is None or waited < config.patience
        return len(self.history) >= config.epochs or not has_time or not is_patient

    def outcome(self) -> Fitted:
        """Return the finished run; the model gets the best weights."""
        self.model.load_state_dict(self.best)
        self.model.eval()
        return Fitted(
            epochs=tuple(Epoch(**item) for item in self.history),
            best_epoch=self.best_epoch,
            steps=self.steps,
            network_passes=self.shown,
        )

    def _own_noise(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that leaves torch's generators as they were."""
        devices = [] if self.device.type == "cpu" else [self.device]
        return torch.random.fork_rng(devices, device_type=self._accelerator)

    @property
    def _accelerator(self) -> str:
        return "cuda" if self.device.type == "cpu" else self.device.type

    def _noise_state(self) -> Tensor:
        """Return the state of the generator that dropout draws from."""
        if self.device.type == "cpu":
            return torch.get_rng_state()
        return torch.get_device_module(self.device).get_rng_state(self.device)

    def _set_noise_state(self, state: Tensor) -> None:
        if self.device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(self.device).set_rng_state(state, self.device)


_PLAIN = (
    *("identity", "noise", "history", "best", "batches", "taken"),
    *("steps", "shown", "loss_sum", "seconds"),
)
"""What of a run is tensors, numbers and lists of them."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: NetworkSet,
    objective: AbstractObjective,
    *,
    part: int | None = None,
    one_architecture: bool = False,
) -> Scores:
    """Return the scores of a model on a set, without dropout and augmentation.

    Args:
        model: what is measured; its mode stays as it is.
        data: the networks, on the model's device.
        objective: what is measured.
        part: networks to compute at a time; None for 100.
        one_architecture: whether a part holds one architecture only.

    Returns:
        Measures by name; `score` is what `fit` selects by.
    """
    was_training = model.training
    model.eval()
    size = EVALUATED if part is None else part
    found = objective.scores(model, data.split(size, one_architecture=one_architecture))
    model.train(was_training)
    return found


def _identity(
    config: FitConfig, seed: int, count: int, part: int | None, piece: int
) -> str:
    """Return what a checkpoint must have in common with the run that continues it."""
    values = config_values(config)
    del values["save_seconds"], values["seconds"]
    values |= {"seed": seed, "networks": count, "part": part, "piece": piece}
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _comparable(score: float) -> float:
    """Return a score that can be compared: NaN is the worst."""
    return -math.inf if math.isnan(score) else score
