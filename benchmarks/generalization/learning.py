"""Teach a predictor the accuracies of networks, choose an epoch, test it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from l2o.companion import (
    Epoch,
    FitConfig,
    NetworkBatch,
    NetworkSet,
    Scores,
    Shares,
    explained_variance,
    fit,
)
from l2o.companion.training_run import EVALUATED
from l2o.config import Positive, frozen_config

from .data import Population
from .predictors import PredictorName, build_predictor, num_weights, parts_of

_NOISE = 0.1
_DROPPED = 0.01
_PIECE = 4
"""Networks of one run that stay together in a batch: one architecture costs less."""


@frozen_config
class LearningConfig:
    """How predictors are trained: the paper's settings, and how long."""

    epochs: Positive[int] = 10
    """Passes over the training networks, the same for every predictor."""
    long_epochs: Positive[int] = 300
    """The same for `stat-nn-long`, which stops when validation has not improved."""
    patience: Positive[int] = 30
    """Epochs without improvement after which `stat-nn-long` stops."""
    batch_size: Positive[int] = 32
    """Networks per batch."""
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
    model: nn.Module | None = field(default=None, compare=False)
    """The predictor with the weights of the best epoch."""


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
        checkpoint: written now and then, and continued from if it is there.
        announce: called with a line after each epoch.

    Returns:
        How it did.
    """
    is_long = name == "stat-nn-long"
    cut = parts_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        graph = population.train.networks.stacks[0].graph
        model = build_predictor(name, population.name, graph)
    objective = Ranking(config.loss)
    fitted = fit(
        model,
        population.train,
        population.validation,
        objective,
        FitConfig(
            epochs=config.long_epochs if is_long else config.epochs,
            patience=config.patience if is_long else None,
            batch_size=config.batch_size,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=0,
            decay="none" if is_long else config.decay,
            clip=config.clip_norm,
        ),
        seed=seed,
        augment=augmented if config.augment else None,
        piece=_PIECE,
        standardise=False,
        checkpoint=checkpoint,
        part=cut.part,
        one_architecture=cut.one_architecture,
        device=population.train.targets.device,
        report=announce,
    )
    tests = population.test.split(
        cut.part or EVALUATED, one_architecture=cut.one_architecture
    )
    with torch.no_grad():
        predicted = torch.cat([model(part.networks) for part in tests])
    true = population.test.targets
    return Learned(
        num_weights=num_weights(model),
        history=[_history(epoch) for epoch in fitted.epochs],
        best_epoch=fitted.best_epoch,
        tau=kendall_tau(predicted, true),
        r2=explained_variance(predicted, true),
        predicted=predicted.tolist(),
        true=true.tolist(),
        network_passes=fitted.network_passes,
        model=model,
    )


class Ranking(Shares):
    """Predict accuracies, selected by how well they order the networks."""

    @override
    def scores(self, model: nn.Module, parts: Iterable[NetworkSet]) -> Scores:
        answers = [(model(part.networks), part.targets) for part in parts]
        predicted, true = map(torch.cat, zip(*answers, strict=True))
        tau = kendall_tau(predicted, true)
        return {"score": tau, "tau": tau, "r2": explained_variance(predicted, true)}


def _history(epoch: Epoch) -> dict[str, float]:
    """Return what a row says of an epoch."""
    scores = epoch.validation
    return {"loss": epoch.train_loss, "tau": scores["tau"], "r2": scores["r2"]}


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
            noise = torch.randn(flat.shape, generator=generator).to(flat.device)
            is_kept = torch.rand(flat.shape, generator=generator) >= _DROPPED
            moved = (flat + _NOISE * spread * noise) * is_kept.to(flat.device)
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
    found: Any = kendalltau(predicted.cpu().numpy(), true.cpu().numpy())
    return float(found.statistic)
