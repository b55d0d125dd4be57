"""The guard of a step: what it skips, what it clips, what it reports."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.config import check_positive, frozen_config


@frozen_config
class SafetyConfig:
    """When a step is not to be trusted.

    Gradients that are not finite skip the whole step: parameters and state stay as they
    were. So do all parameters where an update is not finite, though the gradient was;
    the state has seen it. Both limits are far from what the shipped rules do in a
    normal run, whose largest updates are one nominal step.

    Example:
        >>> from l2o import NeuralGraphOpt
        >>> strict = SafetyConfig(max_update=3.0)
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = NeuralGraphOpt(layer.parameters(), safety=strict)
    """

    max_update: float = 10.0
    """Largest root mean square of a tensor's update at `lr = 1`, in nominal steps: in
    units of `rule.step_size`, the size of Adam's first step. What is larger is scaled
    down to one nominal step."""
    max_gradient: float = 1e15
    """Largest magnitude of a gradient's entry; a tensor with a larger one is scaled
    down to it. Squares of larger ones overflow float32."""

    def __post_init__(self) -> None:
        check_positive(
            "SafetyConfig", max_update=self.max_update, max_gradient=self.max_gradient
        )


class StepReport(NamedTuple):
    """What one guarded step saw, on the parameters' device."""

    is_sound: Tensor
    """Whether the step was taken: all gradients and all updates were finite."""
    grad_peaks: dict[str, Tensor]
    """Largest magnitude of each gradient."""
    update_sizes: dict[str, Tensor]
    """Root mean square of each update at `lr = 1` before clipping, in nominal steps; 0
    where a gradient is not finite, since the rule was not asked then."""


class Guard:
    """Judges the gradients of one step, then its updates.

    Args:
        limits: what is too large.
        grads: name to gradient, in float32 or wider.
        may_ask: whether the device may be asked for answers. Then what is known to be
            sound is passed on without a copy; otherwise every decision is a
            `torch.where`, so that an accelerator never waits and `torch.func` passes.
    """

    def __init__(
        self, limits: SafetyConfig, grads: Mapping[str, Tensor], *, may_ask: bool
    ) -> None:
        self.limits = limits
        self.may_ask = may_ask
        self.peaks = {name: _peak(grad) for name, grad in grads.items()}
        self.are_finite = _all_finite(self.peaks)
        self.is_sound = self.are_finite
        self.sizes = {name: torch.zeros_like(peak) for name, peak in self.peaks.items()}
        self.grads: dict[str, Tensor] = {}
        """Gradients within their limit; zeros if any gradient is not finite."""
        if not self.stops:
            self.grads = {name: self._tamed(name, grad) for name, grad in grads.items()}

    @property
    def stops(self) -> bool:
        """Whether it is known that nothing more is to be done."""
        return self.may_ask and not self.is_sound

    def judge(self, updates: Mapping[str, Tensor], step_size: float) -> None:
        """Measure the updates.

        Args:
            updates: name to update at `lr = 1`.
            step_size: the size of a nominal step.
        """
        self.sizes = {
            name: torch.where(
                self.are_finite,
                torch.linalg.vector_norm(item) / (math.sqrt(item.numel()) * step_size),
                0.0,
            )
            for name, item in updates.items()
        }
        self.is_sound = self.are_finite & _all_finite(self.sizes)

    def clipped(self, name: str, update: Tensor) -> Tensor:
        """Return an update, scaled down to one nominal step if it is too large."""
        size = self.sizes[name]
        if self.may_ask and not size > self.limits.max_update:
            return update
        return update * torch.where(size > self.limits.max_update, 1 / size, 1)

    def condition(self, answer: Tensor) -> Tensor | None:
        """Return an answer that has to be obeyed; None if it is known to be yes."""
        return None if self.may_ask else answer

    def report(self) -> StepReport:
        """Return what was seen."""
        return StepReport(self.is_sound, self.peaks, self.sizes)

    def _tamed(self, name: str, grad: Tensor) -> Tensor:
        peak, limit = self.peaks[name], self.limits.max_gradient
        if self.may_ask and peak <= limit:
            return grad
        small = grad * (limit / peak).clamp(max=1)
        return torch.where(self.are_finite, small, 0.0)


def _peak(grad: Tensor) -> Tensor:
    """Return the largest magnitude in a gradient."""
    # Twenty times as fast as the infinity norm on a CPU, and NaN propagates alike.
    return torch.maximum(-grad.amin(), grad.amax())


def _all_finite(values: Mapping[str, Tensor]) -> Tensor:
    """Return whether all of some numbers are finite, without waiting for them."""
    return torch.stack([value.isfinite() for value in values.values()]).all()
