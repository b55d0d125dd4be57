"""Schedules of the step size over a run."""

import math

from torch import Tensor

END_SHARE = 0.01
"""Factor of the step size once a known horizon is reached."""


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
