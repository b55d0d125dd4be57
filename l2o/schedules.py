"""Schedules of the step size over a run."""

import math


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
