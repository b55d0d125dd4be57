"""What companion networks are trained for: losses, and scores that select."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from .batch import NetworkBatch
from .network_set import NetworkSet
from .predictor import AbstractPredictor

Scores: TypeAlias = dict[str, float]
"""Measures by name. `score` is always there and selects: more is better."""


class AbstractObjective(ABC):
    """A loss per network, and the scores of a model on a set."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: NetworkBatch, targets: Tensor) -> Tensor:
        """Return the loss of each network, `[network]`.

        Args:
            model: what is trained.
            batch: networks.
            targets: what is wanted of each.
        """

    def scores(self, model: nn.Module, parts: Iterable[NetworkSet]) -> Scores:
        """Return how good a model is; called in evaluation mode, without autograd.

        Args:
            model: what is trained.
            parts: the networks in parts.

        Returns:
            Mean `loss`, and its negative as `score`.
        """
        losses = [self.losses(model, part.networks, part.targets) for part in parts]
        loss = float(torch.cat(losses).double().mean())
        return {"loss": loss, "score": -loss}


class Classification(AbstractObjective):
    """Name the class of each network: cross-entropy, selected by accuracy.

    For a `NetworkClassifier`; targets are class numbers, int64.
    """

    @override
    def losses(self, model: nn.Module, batch: NetworkBatch, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(batch), targets, reduction="none")

    @override
    def scores(self, model: nn.Module, parts: Iterable[NetworkSet]) -> Scores:
        losses, hits = [], []
        for part in parts:
            logits = model(part.networks)
            losses.append(F.cross_entropy(logits, part.targets, reduction="none"))
            hits.append(logits.argmax(1) == part.targets)
        loss, accuracy = (float(torch.cat(x).double().mean()) for x in (losses, hits))
        return {"loss": loss, "score": accuracy, "accuracy": accuracy}


class Regression(AbstractObjective):
    """Predict real numbers: squared error, selected by the explained variance.

    For a `NetworkClassifier` with as many `num_classes` as there are targets; targets
    are `[network]` or `[network, target]`, best of mean 0 and deviation 1.
    """

    @override
    def losses(self, model: nn.Module, batch: NetworkBatch, targets: Tensor) -> Tensor:
        return _squared_errors(model(batch), targets)

    @override
    def scores(self, model: nn.Module, parts: Iterable[NetworkSet]) -> Scores:
        answers = [(model(part.networks), part.targets) for part in parts]
        predicted, targets = (torch.cat(found) for found in zip(*answers, strict=True))
        return _fit_quality(predicted, targets)


class Shares(AbstractObjective):
    """Predict one number in [0, 1] per network, such as its accuracy.

    For a `NetworkPredictor`; targets are `[network]`. Selected by the explained
    variance.

    Args:
        loss: `bce`, cross-entropy with the target as probability; or `mse`, squared
            error of the prediction.
    """

    def __init__(self, loss: Literal["bce", "mse"] = "bce") -> None:
        self.loss = loss

    @override
    def losses(self, model: nn.Module, batch: NetworkBatch, targets: Tensor) -> Tensor:
        if not isinstance(model, AbstractPredictor):
            raise TypeError(
                f"Shares trains a NetworkPredictor; got {type(model).__name__}. Use "
                "Regression for a NetworkClassifier, or build a NetworkPredictor."
            )
        logits = model.logits(batch)
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (logits.sigmoid() - targets).square()

    @override
    def scores(self, model: nn.Module, parts: Iterable[NetworkSet]) -> Scores:
        answers = [(model(part.networks), part.targets) for part in parts]
        predicted, targets = (torch.cat(found) for found in zip(*answers, strict=True))
        return _fit_quality(predicted, targets)


def explained_variance(predicted: Tensor, targets: Tensor) -> float:
    """Return R^2: one minus the squared error over the variance of the targets.

    Args:
        predicted: `[network]` or `[network, target]`.
        targets: of the same shape.
    """
    error = (predicted - targets).square().sum()
    return float(1 - error / (targets - targets.mean(0)).square().sum())


def _fit_quality(predicted: Tensor, targets: Tensor) -> Scores:
    predicted = predicted.reshape(targets.shape)
    r2 = explained_variance(predicted, targets)
    loss = float((predicted - targets).square().double().mean())
    return {"loss": loss, "score": r2, "r2": r2}


def _squared_errors(predicted: Tensor, targets: Tensor) -> Tensor:
    errors = (predicted.reshape(targets.shape) - targets).square()
    return errors.flatten(1).mean(1) if errors.ndim > 1 else errors
