"""The guard of a step: what it skips, what it clips, what it reports."""

import math
from collections.abc import Iterable
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.config import Positive, frozen_config

from .state import Averages, State, Tensors, constant
from .tensor_lists import joined, norms, peaks, scaled, sums, zeros_unless


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


_FEWEST_STEPS = 10
"""Gradients of a tensor that its past size is the mean of, at least."""


class Past(NamedTuple):
    """What the state tells of earlier gradients."""

    steps: Tensor
    """`[tensor]`, how many there were."""
    second_moments: list[Tensor]
    decay: float
    """Of the second moments."""

    @classmethod
    def of(cls, averages: Averages, state: State, names: Iterable[str]) -> "Past":
        """Return that of some tensors.

        Args:
            averages: what the state holds.
            state: name to averages.
            names: of the tensors.
        """
        own = [state[name] for name in names]
        return cls(
            steps=torch.stack([item["step"] for item in own]),
            second_moments=[item["second_moment"] for item in own],
            decay=averages.second_moment_decay,
        )

    def limits(self, totals: Tensor, growth: float) -> Tensor:
        """Return the largest root mean square of the next gradients, `[tensor]`.

        Args:
            totals: `[tensor]`, sums of the second moments.
            growth: how much larger than in the past it may be.

        Returns:
            Infinity where there were fewer than ten gradients, or only zeros.
        """
        sizes = [max(item.numel(), 1) / growth**2 for item in self.second_moments]
        sizes = constant(sizes, totals)
        forgotten = self.decay ** self.steps.to(totals)
        sizes = torch.addcmul(sizes, sizes, forgotten, value=-1)
        found = (totals / sizes).sqrt().masked_fill(self.steps < _FEWEST_STEPS, 0.0)
        return found.masked_fill(found <= 0, math.inf)


class Guard:
    """Judges the gradients of one step, then its updates.

    All numbers of one kind lie in one tensor, so that the number of operations hardly
    grows with that of parameters.

    Args:
        limits: what is too large.
        grads: name to gradient, in float32 or wider.
        past: of these tensors; None means that growth has no limit.
        may_ask: whether the device may be asked for answers. Then what is known to be
            sound is passed on without a copy; otherwise every decision is a
            `torch.where`, so that an accelerator never waits and `torch.func` passes.
    """

    def __init__(
        self,
        limits: SafetyConfig,
        grads: Tensors,
        past: Past | None = None,
        *,
        may_ask: bool,
    ) -> None:
        self.limits = limits
        self.may_ask = may_ask
        self._names = list(grads)
        values = list(grads.values())
        if past is not None and may_ask and past.steps.max() < _FEWEST_STEPS:
            past = None
        totals = [] if past is None else sums(past.second_moments)
        # They are asked for below where few tensors need it.
        roots = [] if past is None or may_ask else norms(values)
        self._peaks, norm, total = joined(peaks(values), roots, totals)
        self._sizes: Tensor | None = None
        self.are_finite = _all_finite(self._peaks)
        self.is_sound = self.are_finite
        self.grads: dict[str, Tensor] = {}
        """Gradients within their limit; zeros if any gradient is not finite."""
        if not self.stops:
            most = None if past is None else past.limits(total, limits.max_growth)
            tamed = self._tamed(values, most, norm)
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
        (sizes,) = joined(norms(values))
        sizes = sizes / constant(roots, sizes)
        sizes = torch.where(self.are_finite, sizes, constant([0.0], sizes))
        self._sizes = sizes
        self.is_sound = self.are_finite & _all_finite(sizes)

    def clipped(self, updates: Tensors) -> dict[str, Tensor]:
        """Return updates, those that are too large scaled down to one nominal step.

        Args:
            updates: those that were judged.
        """
        assert self._sizes is not None
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
        sizes = self._sizes
        if sizes is None:  # the rule was not asked
            sizes = torch.zeros_like(self._peaks)
        found = (
            dict(zip(self._names, values.unbind(), strict=True))
            for values in (self._peaks, sizes)
        )
        return StepReport(self.is_sound, *found)

    def _tamed(
        self, grads: list[Tensor], most: Tensor | None, norm: Tensor
    ) -> list[Tensor]:
        """Return the gradients within their limits.

        Args:
            grads: all gradients.
            most: `[gradient]`, largest root mean squares, if there are limits.
            norm: `[gradient]`, root of the sum of squares; empty where `may_ask`.
        """
        limit = constant([self.limits.max_gradient], self._peaks)
        found, loud, chosen = self._peaks, None, grads
        if self.may_ask:
            is_loud = found > limit
            if most is not None:  # the root mean square is at most the largest entry
                is_loud = is_loud | (found > most)
            loud = is_loud.nonzero().flatten()
            if not len(loud):
                return grads
            chosen = [grads[place] for place in loud.tolist()]
            found, most = found[loud], None if most is None else most[loud]
            (norm,) = joined(norms(chosen))
        factors = limit / found
        if most is not None:
            roots = constant([math.sqrt(x.numel()) for x in chosen], norm)
            # Squares of what is beyond the limit may overflow.
            sizes = torch.minimum(norm / roots, found)
            factors = torch.minimum(factors, most / sizes)
        small = scaled(chosen, factors.clamp(max=1))
        if loud is None:
            return zeros_unless(self.are_finite, small)
        tamed = list(grads)
        for place, item in zip(loud.tolist(), small, strict=True):
            tamed[place] = item
        return tamed


def _all_finite(values: Tensor) -> Tensor:
    """Return whether all magnitudes are finite, without waiting for them."""
    return (values < math.inf).all()
