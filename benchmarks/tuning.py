"""Choose a learning rate on a grid that grows until the best one has neighbours."""

from collections.abc import Callable, Sequence

from .opponents import Grid
from .runs import Row
from .summary import Measure, merit

_GROWTH = 2.0


def tune(
    grid: Grid,
    measure: Callable[[float], Sequence[Row]],
    *,
    extensions: int,
    by: Measure = "accuracy",
) -> float:
    """Return the learning rate of the best runs.

    The best has the highest mean accuracy on the held-out split, or the lowest mean
    loss where there are no classes or `by` says so; a run without a number counts as
    the worst. While it stands at an end of the grid, the grid grows there by a factor
    of two.

    Args:
        grid: learning rates to begin with, in rising order.
        measure: returns one row per seed for a learning rate.
        extensions: how often the grid may grow.
        by: which number decides.

    Raises:
        ValueError: unless the grid rises and has two learning rates or more.
    """
    check_grid(grid, "tune")
    scores = {lr: merit(measure(lr), by) for lr in grid}
    for _ in range(extensions):
        best = max(scores, key=lambda lr: scores[lr])
        if best == max(scores):
            wider = best * _GROWTH
        elif best == min(scores):
            wider = best / _GROWTH
        else:
            break
        scores[wider] = merit(measure(wider), by)
    return max(scores, key=lambda lr: scores[lr])


def check_grid(grid: Grid, name: str) -> None:
    """Raise unless a grid has two positive learning rates or more, in rising order.

    Args:
        grid: learning rates.
        name: whose grid it is, for the message.

    Raises:
        ValueError: if it has not.
    """
    if len(grid) < 2 or list(grid) != sorted(set(grid)) or not grid[0] > 0:
        raise ValueError(
            f"{name} needs two or more positive learning rates in rising order; got "
            f"{grid}. Sort them and leave out repetitions."
        )
