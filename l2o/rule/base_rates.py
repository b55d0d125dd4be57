"""Rates of a rule's base optimizer by what a matrix is for, and their schedule."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.graph import NeuralGraph
from l2o.graph.matrices import Matrix
from l2o.schedules import share_left

ROLES = ("first", "hidden", "last", "kernel", "table", "vector", "sine")
"""What a matrix can be for: a linear map that reads the network's inputs, one between,
one that writes its outputs, a kernel, a lookup table, all else; but whatever writes
what goes through a sine or cosine is `sine`."""

AIMS = ("latest", "averaged")
"""Which weights a run is for: those of the last step, or the averaged ones. Steps may
stay large for an average, in which their noise cancels."""

_PERIODIC = {"sin", "cos", "sinc"}


def role_of(graph: NeuralGraph, matrix: Matrix) -> int:
    """Return which of `ROLES` a matrix has.

    Args:
        graph: the neural graph.
        matrix: one of its matrices.
    """
    target = graph.groups[matrix.target]
    if any(operation.name in _PERIODIC for operation in target.operations):
        return ROLES.index("sine")
    if not matrix.is_map:
        return ROLES.index("table" if matrix.kind == "table" else "vector")
    if matrix.kind == "kernel":
        return ROLES.index("kernel")
    if matrix.is_unplaced:
        return ROLES.index("hidden")
    if target.role == "output":
        return ROLES.index("last")
    is_first = matrix.source is not None and graph.groups[matrix.source].role == "input"
    return ROLES.index("first" if is_first else "hidden")


class BaseRates(nn.Module):
    r"""A few numbers of theta that need no network: rates by role and their decay.

    The rate of a matrix of role :math:`k` after :math:`t` steps is

    .. math:: \exp(a_k + g) \min(1, t / w) (1 + t / \tau)^{-p}

    where :math:`\tau` and :math:`p` depend on the aim of the run, the latest or the
    averaged weights, and :math:`g` is zero for the latest. With a known horizon
    :math:`T`, the last factor is :math:`1 - t / T`, with a :math:`g` of its own; past
    the end it stays at 0.01. Untrained, all rates are 1 and constant.

    Args:
        num_powers: further outputs per matrix, to which constants are added.
    """

    def __init__(self, num_powers: int) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.zeros(len(ROLES)))
        """:math:`a`, one per role."""
        self.log_warmup = nn.Parameter(torch.zeros(()))
        """:math:`w`, as a logarithm, in steps."""
        self.log_decay_steps = nn.Parameter(torch.full((len(AIMS),), math.log(200.0)))
        """:math:`\\tau` of each of `AIMS`, as a logarithm, in steps."""
        self.decay_power = nn.Parameter(torch.zeros(len(AIMS)))
        """:math:`p` of each of `AIMS`."""
        self.average_gain = nn.Parameter(torch.zeros(()))
        """:math:`g` where the averaged weights count."""
        self.horizon_gain = nn.Parameter(torch.zeros(()))
        """:math:`g` where the horizon is known."""
        self.powers = nn.Parameter(torch.zeros(num_powers))
        """Added to the network's outputs for a matrix, except its scale."""

    def forward(
        self,
        roles: Tensor,
        steps: Tensor,
        *,
        horizon: int | None = None,
        is_averaged: bool = False,
    ) -> Tensor:
        """Return the logarithm of the rate of each matrix, `[matrix]`.

        Args:
            roles: `[matrix]`, places in `ROLES`.
            steps: `[matrix]`, numbers of gradients seen, from 1.
            horizon: number of steps of the whole run; None if unknown.
            is_averaged: whether the averaged weights count, not the latest.
        """
        log_steps = steps.log()
        log_warm = (log_steps - self.log_warmup).clamp(max=0)
        rates = self.log_rates.index_select(0, roles) + log_warm
        if horizon is None:
            aim = int(is_averaged)
            passed = F.softplus(log_steps - self.log_decay_steps[aim])
            if is_averaged:
                rates = rates + self.average_gain
            return torch.addcmul(rates, self.decay_power[aim], passed, value=-1)
        return rates + self.horizon_gain + share_left(steps, horizon).log()
