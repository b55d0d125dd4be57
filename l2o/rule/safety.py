"""The guard of a step: what it skips, what it clips, what it reports."""

import math
from collections.abc import Iterable
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.config import Positive, frozen_config

from .state import Averages, State, Tensors, constant
from .tensor_lists import norms, peaks, scaled, sums, zeros_unless


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

    All numbers of one kind lie in one tensor, so that the number of operations hardly
    grows with that of parameters.

    Args:
        limits: what is too large.
        grads: name to gradient, in float32 or wider.
        past: `[gradient]`, the root mean square of each tensor's gradients so far; 0
            where there were too few. None means that growth has no limit.
        may_ask: whether the device may be asked for answers. Then what is known to be
            sound is passed on without a copy; otherwise every decision is a
            `torch.where`, so that an accelerator never waits and `torch.func` passes.
    """

    def __init__(
        self,
        limits: SafetyConfig,
        grads: Tensors,
        past: Tensor | None = None,
        *,
        may_ask: bool,
    ) -> None:
        self.limits = limits
        self.may_ask = may_ask
        self._names = list(grads)
        self._peaks = peaks(list(grads.values()))
        self._sizes = torch.zeros_like(self._peaks)
        self.are_finite = _all_finite(self._peaks)
        self.is_sound = self.are_finite
        self.grads: dict[str, Tensor] = {}
        """Gradients within their limit; zeros if any gradient is not finite."""
        if not self.stops:
            tamed = self._tamed(list(grads.values()), past)
            self.grads = dict(zip(self._names, tamed, strict=True))

    @property
    def stops(self) -> bool:
        """Whether it is known that the step must be skipped."""
        return self.may_ask and not self.is_sound

    def judge(self, updates: Tensors, step_size: float) -> None:
        """Measure the updates.

        Args:
            updates: name to update at `lr = 1`, for the names of the gradients.
            step_size: the size of a nominal step.
        """
        values = [updates[name] for name in self._names]
        roots = [math.sqrt(value.numel()) * step_size for value in values]
        sizes = norms(values)
        sizes = sizes / constant(roots, sizes)
        self._sizes = torch.where(self.are_finite, sizes, 0.0)
        self.is_sound = self.are_finite & _all_finite(self._sizes)

    def clipped(self, updates: Tensors) -> dict[str, Tensor]:
        """Return updates, those that are too large scaled down to one nominal step."""
        is_small = self._sizes <= self.limits.max_update
        if self.may_ask and is_small.all():
            return dict(updates)
        factors = self._sizes.reciprocal().masked_fill(is_small, 1)
        large, chosen = factors, self._names
        if self.may_ask:
            large = factors[~is_small]
            chosen = list(compress(self._names, (~is_small).tolist()))
        small = scaled([updates[name] for name in chosen], large)
        return {**updates, **dict(zip(chosen, small, strict=True))}

    def condition(self, answer: Tensor) -> Tensor | None:
        """Return an answer that has to be obeyed; None if it is known to be yes."""
        return None if self.may_ask else answer

    def report(self) -> StepReport:
        """Return what was seen."""
        found = (
            dict(zip(self._names, values.unbind(), strict=True))
            for values in (self._peaks, self._sizes)
        )
        return StepReport(self.is_sound, *found)

    def _tamed(self, grads: list[Tensor], past: Tensor | None) -> list[Tensor]:
        """Return the gradients within their limits."""
        limit, most = self.limits.max_gradient, None
        found, loud = self._peaks, None
        is_loud = found > limit
        if past is not None:
            most = past * self.limits.max_growth
            most = most.masked_fill(most <= 0, math.inf)
            # The largest entry is at hand, and the root mean square is no larger.
            is_loud = is_loud | (found > most)
        if self.may_ask:
            loud = is_loud.nonzero().flatten()
            if not len(loud):
                return grads
            found, most = found[loud], None if most is None else most[loud]
        chosen = grads if loud is None else [grads[place] for place in loud.tolist()]
        factors = (limit / found).clamp(max=1)
        if most is not None:
            sizes = norms(chosen)
            sizes = sizes / constant([math.sqrt(x.numel()) for x in chosen], sizes)
            # Squares of what is beyond the limit may overflow.
            sizes = (sizes * factors).clamp(max=limit)
            factors = factors * (most / sizes).clamp(max=1)
        small = scaled(chosen, factors)
        if loud is None:
            return zeros_unless(self.are_finite, small)
        tamed = list(grads)
        for place, item in zip(loud.tolist(), small, strict=True):
            tamed[place] = item
        return tamed


_FEWEST_STEPS = 10
"""Gradients of a tensor that its past size is the mean of, at least."""


def past_sizes(
    averages: Averages, state: State, names: Iterable[str], *, may_ask: bool
) -> Tensor | None:
    """Return the root mean square of each tensor's gradients so far.

    Args:
        averages: what the state holds.
        state: name to averages.
        names: of the tensors.
        may_ask: whether the device may be asked for answers.

    Returns:
        `[tensor]`; 0 where fewer than ten gradients were seen. None where that is known
        to hold for all.
    """
    own = [state[name] for name in names]
    steps = torch.stack([item["step"] for item in own])
    if may_ask and steps.max() < _FEWEST_STEPS:
        return None
    total = sums([item["second_moment"] for item in own])
    mean = total / constant([max(i["second_moment"].numel(), 1) for i in own], total)
    age = 1 - averages.second_moment_decay ** steps.to(total).clamp_min(1)
    return (mean / age).sqrt().masked_fill(steps < _FEWEST_STEPS, 0.0)


def _all_finite(values: Tensor) -> Tensor:
    """Return whether all magnitudes are finite, without waiting for them."""
    return (values < math.inf).all()
