"""Rules that know how long the run is and which weights it is for."""

import copy
from typing import TypeVar

from .rule import AbstractRule, plain_averages

AnyKind = TypeVar("AnyKind", bound=AbstractRule)


def with_horizon(rule: AnyKind, total_steps: int | None) -> AnyKind:
    """Return a rule that knows the number of steps of the whole run.

    Args:
        rule: the rule; left unchanged.
        total_steps: number of steps; None returns the rule itself.

    Returns:
        A rule that shares theta with the given one.

    Raises:
        TypeError: if `total_steps` is no integer.
        ValueError: if `total_steps` is below 1, or the rule keeps a state of its own,
            which does not tell how many steps have passed.

    Example:
        >>> import l2o
        >>> with_horizon(l2o.Rule(), 100).horizon
        100
    """
    if total_steps is None:
        return rule
    if isinstance(total_steps, bool) or not isinstance(total_steps, int):
        raise TypeError(
            "NeuralGraphOpt total_steps must be a whole number of steps; got "
            f"{total_steps!r}. Pass epochs * len(loader), for example, or leave it out."
        )
    if total_steps < 1:
        raise ValueError(
            "NeuralGraphOpt total_steps must be at least 1; got "
            f"total_steps={total_steps}. Leave it out if the length of the run is "
            "unknown."
        )
    if not rule.reads_horizon and plain_averages(rule) is None:
        raise ValueError(
            "NeuralGraphOpt total_steps needs a rule whose state counts steps; got "
            f"{type(rule).__name__}, which keeps a state of its own. Leave total_steps "
            "out and use a scheduler."
        )
    known = copy.copy(rule)
    known.horizon = total_steps
    return known


def with_aim(rule: AnyKind, *, is_averaged: bool) -> AnyKind:
    """Return a rule that knows whether the averaged weights count.

    Args:
        rule: the rule; left unchanged.
        is_averaged: whether they do, and not the latest.

    Returns:
        A rule that shares theta with the given one; the rule itself if it would not
        take other steps.
    """
    if rule.is_averaged == is_averaged or not rule.reads_aim:
        return rule
    aimed = copy.copy(rule)
    aimed.is_averaged = is_averaged
    return aimed
