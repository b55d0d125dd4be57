"""Schedules over a run: of the step size, and of averaged weights."""

import math
from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)

END_SHARE = 0.01
"""Factor of the step size once a known horizon is reached."""

_AVERAGE_MEMORY = 0.1
"""Share of the run so far that averaged weights remember."""


def cosine_factor(
    step: int, steps: int, *, warmup_steps: int = 0, lowest: float = 0.0
) -> float:
    """Return the factor of one step's size: up in a line, then down half a cosine.

    Args:
        step: number of steps already made.
        steps: length of the run.
        warmup_steps: steps over which the factor rises to 1.
        lowest: factor at the end of the run.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    falling = max(1, steps - warmup_steps)
    share = (1 + math.cos(math.pi * (step - warmup_steps) / falling)) / 2
    return lowest + (1 - lowest) * share


def share_left(steps: Tensor, horizon: int) -> Tensor:
    """Return the factor of each step's size in a run of known length.

    Args:
        steps: numbers of steps, this one included, from 1; any shape.
        horizon: number of steps of the whole run.

    Returns:
        1 at the first step, falling in a line towards 0; `END_SHARE` past the end.
    """
    return (1 - (steps - 1) / horizon).clamp_min(END_SHARE)


def average_share(count: Number) -> Number:
    """Return the share that the newest weights have in the averaged ones.

    Args:
        count: number of weights that the average holds already, from 0.

    Returns:
        1 at first, so that the average starts as the weights are.
    """
    return 1 / (_AVERAGE_MEMORY * count + 1)
