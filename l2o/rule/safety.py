"""The guard of a step: what it skips, what it clips, what it reports."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.config import Positive, frozen_config

from .state import Averages, State, Tensors


@frozen_config
class SafetyConfig:
    """When a step is not to be trusted.

    Gradients that are not finite skip the whole step: parameters and state stay as they
    were. So do all parameters where an update is not finite, though the gradient was;
    the state has seen it. The limits are far from what happens in a normal run, whose
    largest updates are one nominal step, and where they are kept change no bit.

    Example:
        >>> from l2o import NeuralGraphOpt
        >>> strict = SafetyConfig(max_update=3.0)
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = NeuralGraphOpt(layer.parameters(), safety=strict)
    """

    max_update: Positive[float] = 10.0
    """Largest root mean square of a tensor's update at `lr = 1`, in nominal steps: in
    units of `rule.step_size`, the size of Adam's first step. What is larger is scaled
    down to one nominal step."""
    max_gradient: Positive[float] = 1e15
    """Largest magnitude of a gradient's entry; a tensor with a larger one is scaled
    down to it. Squares of larger ones overflow float32."""
    max_growth: Positive[float] = 30.0
    """Largest root mean square of a tensor's gradient, in units of that of its past
    gradients (the root of the mean second moment); a larger gradient is scaled down to
    it. One batch can then not dominate the momenta. Holds from the tenth step of a
    tensor, for rules whose state is averages."""


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
        past: name to the root mean square of a tensor's gradients so far, `[]`; 0 where
            there were too few. Missing ones have no limit of growth.
        may_ask: whether the device may be asked for answers. Then what is known to be
            sound is passed on without a copy; otherwise every decision is a
            `torch.where`, so that an accelerator never waits and `torch.func` passes.
    """

    def __init__(
        self,
        limits: SafetyConfig,
        grads: Tensors,
        past: Tensors | None = None,
        *,
        may_ask: bool,
    ) -> None:
        self.limits = limits
        self._past = {} if past is None else past
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

    def judge(self, updates: Tensors, step_size: float) -> None:
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
        past = self._past.get(name)
        most = None if past is None else past * self.limits.max_growth
        # The largest entry is at hand, and the root mean square is no larger.
        if self.may_ask and peak <= limit and (most is None or peak <= most):
            return grad
        small = grad * (limit / peak).clamp(max=1)
        if most is not None:
            size = torch.linalg.vector_norm(small) / math.sqrt(small.numel())
            is_spike = (most > 0) & (size > most)
            small = small * torch.where(is_spike, most / size, 1)
        return torch.where(self.are_finite, small, 0.0)


_FEWEST_STEPS = 10
"""Gradients of a tensor that its past size is the mean of, at least."""


def past_sizes(
    averages: Averages, state: State, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the root mean square of each tensor's gradients so far.

    Args:
        averages: what the state holds.
        state: name to averages.
        names: of the tensors.

    Returns:
        Name to `[]`; 0 where fewer than ten gradients were seen.
    """
    found = {}
    for name in names:
        steps, second = state[name]["step"], state[name]["second_moment"]
        kind = torch.promote_types(second.dtype, torch.float32)
        mean = second.sum(dtype=kind) / max(second.numel(), 1)
        age = 1 - averages.second_moment_decay ** steps.to(kind).clamp_min(1)
        found[name] = torch.where(steps >= _FEWEST_STEPS, (mean / age).sqrt(), 0.0)
    return found


def _peak(grad: Tensor) -> Tensor:
    """Return the largest magnitude in a gradient."""
    # Twenty times as fast as the infinity norm on a CPU, and NaN propagates alike.
    return torch.maximum(-grad.amin(), grad.amax())


def _all_finite(values: Tensors) -> Tensor:
    """Return whether all of some numbers are finite, without waiting for them."""
    return torch.stack([value.isfinite() for value in values.values()]).all()
