"""Teach a predictor the accuracies of networks, choose an epoch, test it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from l2o.companion import NetworkBatch
from meta_train.resume import load_checkpoint, save_checkpoint
from meta_train.schedules import cosine_factor

from .data import Alike, Population, batches
from .predictors import PredictorName, build_predictor, num_weights, parts

_NOISE = 0.1
_DROPPED = 0.01
_EVALUATION_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """How predictors are trained: the paper's settings, and how long."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    epochs: int = 10
    """Passes over the training networks, the same for every predictor."""
    long_epochs: int = 300
    """The same for `stat-nn-long`, which stops when validation has not improved."""
    patience: int = 30
    """Epochs without improvement after which `stat-nn-long` stops."""
    batch_size: int = 32
    """Networks a batch."""
    learning_rate: float = 1e-3
    """Of AdamW with AMSGrad."""
    weight_decay: float = 5e-4
    """Of AdamW."""
    decay: Literal["none", "cosine"] = "cosine"
    """Whether the learning rate falls to zero over the epochs. The paper's does not,
    over a hundred times as many steps; `stat-nn-long` never decays."""
    clip_norm: float = 10.0
    """Largest norm of a gradient."""
    loss: Literal["bce", "mse"] = "bce"
    """Cross-entropy with the accuracy as probability, or squared error; both of the
    sigmoid of a predictor's output."""
    augment: bool = True
    """Whether training networks get noise of a tenth of each tensor's deviation and
    lose one weight in a hundred."""

    def __post_init__(self) -> None:
        for name in ("epochs", "long_epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"LearningConfig {name} must be at least 1; got "
                    f"{getattr(self, name)}. Choose a positive number."
                )


@dataclass(frozen=True, kw_only=True)
class Learned:
    """How a predictor did."""

    num_weights: int
    """Numbers that it learns."""
    history: list[dict[str, float]]
    """Training loss, and Kendall's tau and R^2 on validation, after each epoch."""
    best_epoch: int
    """The epoch with the best tau on validation, counted from 1."""
    tau: float
    """Kendall's tau on the test networks after that epoch."""
    r2: float
    """Share of the variance of test accuracies that is explained; may be negative."""
    predicted: list[float]
    """Prediction for each test network."""
    true: list[float]
    """Test accuracy of each test network."""
    network_passes: int
    """Training networks that were shown, counted as often as they were."""


def learn(
    name: PredictorName,
    population: Population,
    config: LearningConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    announce: Callable[[str], object] | None = None,
) -> Learned:
    """Train a predictor, choose the epoch by validation and test it once.

    Args:
        name: which predictor.
        population: the networks.
        config: how it is trained.
        seed: decides its initial weights, batches and augmentation.
        checkpoint: written after each epoch, and continued from if it is there.
        announce: called with a line after each epoch.

    Returns:
        How it did.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        course = _Course(name, population, config, seed)
        if checkpoint is not None and checkpoint.is_file():
            course.load_state_dict(load_checkpoint(checkpoint))
        while not course.is_over:
            course.run_epoch()
            if checkpoint is not None:
                save_checkpoint(course.state_dict(), checkpoint)
            if announce is not None:
                last = course.history[-1]
                announce(
                    f"epoch {len(course.history)}: loss {last['loss']:.4f}, "
                    f"validation tau {last['tau']:.3f}, R^2 {last['r2']:.3f}"
                )
        return course.test()


class _Course:
    """A predictor under training, with everything that a checkpoint holds."""

    def __init__(
        self,
        name: PredictorName,
        population: Population,
        config: LearningConfig,
        seed: int,
    ) -> None:
        self.name: PredictorName = name
        self.population, self.config = population, config
        graph = population.train[0].graph
        self.model = build_predictor(name, population.name, graph)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            amsgrad=True,
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}
        self.network_passes = 0

    @property
    def is_over(self) -> bool:
        """Whether there is no further epoch."""
        epochs = len(self.history)
        if self.name != "stat-nn-long":
            return epochs >= self.config.epochs
        waited = epochs - self.best_epoch
        return epochs >= self.config.long_epochs or waited >= self.config.patience

    def run_epoch(self) -> None:
        """Train for one epoch; keep the weights if they are the best so far."""
        self.model.train()
        total, count = 0.0, 0
        train, size = self.population.train, self.config.batch_size
        for batch, accuracies in batches(train, size, self.generator):
            self._set_rate()
            total += self._step(batch, accuracies)
            count += len(accuracies)
            self.network_passes += len(accuracies)
        predicted, true = self._predict(self.population.validation)
        scores = {"tau": kendall_tau(predicted, true), "r2": r_squared(predicted, true)}
        if not self.history or scores["tau"] > self.history[self.best_epoch - 1]["tau"]:
            self.best_epoch = len(self.history) + 1
            state = self.model.state_dict()
            self.best = {name: value.clone() for name, value in state.items()}
        self.history.append({"loss": total / count, **scores})

    def test(self) -> Learned:
        """Return how the best weights do on the test networks."""
        self.model.load_state_dict(self.best)
        predicted, true = self._predict(self.population.test)
        return Learned(
            num_weights=num_weights(self.model),
            history=self.history,
            best_epoch=self.best_epoch,
            tau=kendall_tau(predicted, true),
            r2=r_squared(predicted, true),
            predicted=predicted.tolist(),
            true=true.tolist(),
            network_passes=self.network_passes,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what continues the training exactly here."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "global_generator": torch.get_rng_state(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best": self.best,
            "network_passes": self.network_passes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another course stopped."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        self.history = state["history"]
        self.best_epoch, self.best = state["best_epoch"], state["best"]
        self.network_passes = state["network_passes"]

    def _set_rate(self) -> None:
        """Let the learning rate fall with the share of networks that were shown."""
        if self.config.decay == "none" or self.name == "stat-nn-long":
            return
        all_passes = self.config.epochs * sum(map(len, self.population.train))
        factor = cosine_factor(self.network_passes, all_passes)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor

    def _step(self, batch: NetworkBatch, accuracies: Float[Tensor, " B"]) -> float:
        """Take one step; return the summed loss."""
        if self.config.augment:
            batch = augmented(batch, self.generator)
        self.optimizer.zero_grad()
        total, start = 0.0, 0
        for part in parts(self.name, batch):
            targets = accuracies[start : start + len(part)]
            start += len(part)
            logits = self.model.logits(part)
            if self.config.loss == "bce":
                loss = functional.binary_cross_entropy_with_logits(
                    logits, targets, reduction="sum"
                )
            else:
                loss = (logits.sigmoid() - targets).square().sum()
            (loss / len(accuracies)).backward()
            total += loss.item()
        weights = self.model.parameters()
        torch.nn.utils.clip_grad_norm_(weights, self.config.clip_norm)
        self.optimizer.step()
        return total

    def _predict(self, groups: Sequence[Alike]) -> tuple[Tensor, Tensor]:
        """Return predicted and true accuracies, in order."""
        self.model.eval()
        predicted, true = [], []
        with torch.no_grad():
            for batch, accuracies in batches(groups, _EVALUATION_BATCH):
                predicted += [self.model(part) for part in parts(self.name, batch)]
                true.append(accuracies)
        return torch.cat(predicted), torch.cat(true)


def augmented(batch: NetworkBatch, generator: torch.Generator) -> NetworkBatch:
    """Return networks with noise and without some of their weights.

    Args:
        batch: the networks; they stay as they are.
        generator: draws both.

    Reference: as the paper's code for the Small CNN Zoo: Gaussian noise of a tenth of
        each tensor's standard deviation, then one entry in a hundred set to zero.
    """
    stacks = []
    for stack in batch.stacks:
        params = {}
        for name, values in stack.params.items():
            flat = values.flatten(1)
            spread = flat.std(dim=1, keepdim=True)
            noise = torch.randn(flat.shape, generator=generator)
            is_kept = torch.rand(flat.shape, generator=generator) >= _DROPPED
            moved = (flat + _NOISE * spread * noise) * is_kept
            params[name] = moved.view_as(values)
        stacks.append(replace(stack, params=params))
    return NetworkBatch(tuple(stacks))


def kendall_tau(predicted: Float[Tensor, " N"], true: Float[Tensor, " N"]) -> float:
    """Return Kendall's tau-b: 1 for the right order, -1 for the reverse.

    A predictor that says the same of all networks orders nothing and gets 0.
    """
    from scipy.stats import kendalltau

    if len(predicted.unique()) == 1:
        return 0.0
    found: Any = kendalltau(predicted.numpy(), true.numpy())
    return float(found.statistic)


def r_squared(predicted: Float[Tensor, " N"], true: Float[Tensor, " N"]) -> float:
    """Return one minus the squared error over the variance of what is true."""
    error = (predicted - true).square().sum()
    return float(1 - error / (true - true.mean()).square().sum())
