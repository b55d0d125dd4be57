"""How a network is trained on trained networks, and what a finished run tells."""

from dataclasses import dataclass
from typing import Literal

from l2o.config import NotNegative, Positive, frozen_config

from .objectives import Scores


@frozen_config
class FitConfig:
    """How a network is trained; the defaults are the paper's for classification."""

    epochs: Positive[int] = 200
    """Most passes over the training set."""
    seconds: Positive[float] | None = None
    """Most seconds of training; the last epoch that fits is finished. None for any."""
    patience: Positive[int] | None = None
    """Epochs without a better validation score after which to stop; None never stops.
    The weights of the best epoch are kept in any case."""
    batch_size: Positive[int] = 128
    """Networks per step."""
    lr: Positive[float] = 1e-3
    """Step size of AdamW with AMSGrad."""
    weight_decay: NotNegative[float] = 5e-4
    """Of AdamW."""
    warmup_steps: NotNegative[int] = 1000
    """Steps over which the step size rises linearly from 0."""
    decay: Literal["none", "cosine"] = "none"
    """Whether the step size then falls to 0 along half a cosine, over all epochs; a run
    that `seconds` or `patience` ends does not get that far."""
    clip: Positive[float] = 10.0
    """Largest norm of the gradient."""
    save_seconds: NotNegative[float] = 60.0
    """Seconds between two checkpoints: what an interrupt loses."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training set."""

    train_loss: float
    """Mean loss while training, with dropout and augmentation."""
    validation: Scores
    """On the networks that select."""
    curves: dict[str, Scores]
    """On further sets, by name; they decide nothing."""
    seconds: float
    """Time of the training steps."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A finished run; the model has the weights of the best epoch."""

    epochs: tuple[Epoch, ...]
    """One per pass."""
    best_epoch: int
    """The pass with the best validation score, counted from 1; the first of equals."""
    steps: int
    """Updates in all."""
    network_passes: int
    """Training networks that were shown, counted as often as they were."""

    @property
    def networks_per_second(self) -> float:
        """Networks per second of training, on average."""
        return self.network_passes / sum(epoch.seconds for epoch in self.epochs)
