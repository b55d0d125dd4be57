"""Warnings of an optimizer, each given once."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from .checks import BETAS
from .diagnostics import SKIPS_IN_A_ROW

LOWEST_RATE = 0.02
"""An `lr` whose peak is below this reads like a learning rate meant for Adam."""


class Once:
    """Warnings of one optimizer; each kind is given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._peak_rate = _PeakRate()
        self._steps_left: int | None = None

    def _is_new(self, kind: str) -> bool:
        """Return whether a warning was not given before; note that it is given now."""
        is_new = kind not in self._given
        self._given.add(kind)
        return is_new

    def forget_steps(self) -> None:
        """Count the steps of the run again: the state is another."""
        self._steps_left = None

    def warn_of_settings(self, groups: Sequence[dict[str, Any]]) -> None:
        """Warn of settings that do not do what they seem to.

        Args:
            groups: the optimizer's, about to step.
        """
        if self._peak_rate.is_low(groups) and self._is_new("lr"):
            _warn_of_rate(self._peak_rate.value)
        for group in groups:
            betas = group["betas"]
            if tuple(betas) != BETAS and self._is_new("betas"):
                _warn_of_betas(betas)

    def warn_of_end(
        self, horizon: int | None, states: Iterable[dict[str, Any]]
    ) -> None:
        """Warn that a run continues past the end that it was given.

        Args:
            horizon: number of steps of the whole run; None if unknown.
            states: of the parameters, before the step.
        """
        if horizon is None or "end" in self._given:
            return
        if self._steps_left is None:  # the only time that the device is asked
            taken = [int(item["step"]) for item in states if item]
            self._steps_left = horizon - max(taken, default=0)
        self._steps_left -= 1
        if self._steps_left < 0 and self._is_new("end"):
            _warn_of_end(horizon)

    def warn_of_skips(self) -> None:
        """Warn that many steps in a row were skipped."""
        if self._is_new("skips"):
            _warn_of_skips(SKIPS_IN_A_ROW)

    def warn_of_compile(self) -> None:
        """Warn that a step is compiled from outside."""
        if self._is_new("compile"):
            _warn_of_compile()


class _PeakRate:
    """The largest `lr` of a run so far, over all groups.

    With a learning rate meant for Adam, updates are a thousandth of what they should
    be. A low `lr` is right in a warm-up, where it rises, and after its peak.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self._last = 0.0

    def is_low(self, groups: Sequence[dict[str, Any]]) -> bool:
        """Return whether the peak of the schedule is known by now, and is too low.

        Args:
            groups: the optimizer's, about to step. Tensors on an accelerator, which
                one would have to wait for, count as high.
        """
        if self.value >= LOWEST_RATE:
            return False
        now = max(_number(group["lr"]) for group in groups)
        keys = ("initial_lr", "max_lr")  # of schedulers
        planned = max(_number(group.get(key, 0.0)) for group in groups for key in keys)
        is_known = all("max_lr" in group for group in groups)
        is_rising, self._last = now > self._last, now
        self.value = max(self.value, now, planned)
        return 0 < self.value < LOWEST_RATE and now > 0 and (is_known or not is_rising)


def _number(value: float | Tensor) -> float:
    """Return a number; 1 for a tensor on an accelerator."""
    is_far = isinstance(value, Tensor) and value.device.type != "cpu"
    return 1.0 if is_far else float(value)


def _warn_of_rate(peak: float) -> None:
    """Say that `lr` reads like Adam's."""
    warnings.warn(
        "NeuralGraphOpt lr multiplies the rule's own steps, with 1.0 as meta-trained; "
        f"got lr={peak:g} at its highest, which hardly moves anything. Leave lr out or "
        "write lr=1.0, and max_lr=1.0 in a OneCycleLR.",
        stacklevel=3,
    )


def _warn_of_skips(count: int) -> None:
    """Say that training stands still."""
    warnings.warn(
        "NeuralGraphOpt needs finite gradients and updates; got none in the last "
        f"{count} steps, which were skipped, so that the parameters stay as they are. "
        "Look at the loss and at optimizer.diagnostics(), and go back to a checkpoint "
        "with finite weights.",
        stacklevel=3,
    )


def _warn_of_betas(betas: tuple[float, float]) -> None:
    """Say that a scheduler cycles decays that no rule reads."""
    warnings.warn(
        f"NeuralGraphOpt has fixed decays, its rule's; betas={betas} changes nothing. "
        "Pass cycle_momentum=False to the scheduler to say so yourself.",
        stacklevel=3,
    )


def _warn_of_end(total_steps: int) -> None:
    """Say that a run continues past the end that it was given."""
    warnings.warn(
        f"NeuralGraphOpt total_steps={total_steps} is over, and the run continues with "
        "updates of a hundredth of their size. Pass the length of the whole run, or "
        "leave total_steps out.",
        stacklevel=3,
    )


def _warn_of_compile() -> None:
    """Say that a step is compiled from outside."""
    warnings.warn(
        "NeuralGraphOpt.step must not be compiled from outside; got a call within "
        "torch.compile, which is taken uncompiled. Build the optimizer with "
        "compile=True instead.",
        stacklevel=4,
    )
