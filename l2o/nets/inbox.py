"""Where messages arrive: reduced a neuron, tile by tile."""

from collections.abc import Callable
from math import inf, log

import torch
from torch import Tensor

from .fast_ops import squared

NUM_REDUCTIONS = 8
"""Mean, minimum, maximum, deviation, each plain and amplified by degree."""

UPDATED_NEURONS = 2**11
"""Neurons that are updated at a time where nothing need be kept for autograd."""

TYPICAL_LOG_DEGREE = log(32.0)
"""Where the amplification is 1: a neuron with 31 neighbours."""


class Inbox:
    """All messages of one layer, reduced a neuron.

    Args:
        degree: `[neuron]`, how many messages each neuron gets.
        is_pure: whether nothing is written in place, as autograd needs it.
        typical_log_degree: where the amplification is 1.
    """

    def __init__(
        self,
        degree: Tensor,
        *,
        is_pure: bool,
        typical_log_degree: float = TYPICAL_LOG_DEGREE,
    ) -> None:
        self.degree = degree
        self.typical_log_degree = typical_log_degree
        self.is_pure = is_pure
        self.neurons: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.lows: list[Tensor] = []

    def take(self, neurons: Tensor, sums: Tensor, lows: Tensor) -> None:
        """Take what the messages of one tile were reduced to.

        Args:
            neurons: `[part, receiver]`.
            sums: `[part, receiver, 2 * width]`, of messages and of their squares.
            lows: `[part, receiver, 2 * width]`, least message and least negative one.
        """
        index, sums, lows = neurons.flatten(), sums.flatten(0, 1), lows.flatten(0, 1)
        if self.is_pure:
            self.neurons.append(index)
            self.sums.append(sums)
            self.lows.append(lows)
            return
        if not self.sums:
            self.sums.append(sums.new_zeros(len(self.degree), sums.shape[-1]))
            self.lows.append(lows.new_full((len(self.degree), lows.shape[-1]), inf))
        self.sums[0].index_add_(0, index, sums)
        self.lows[0].scatter_reduce_(0, _rows(index, lows), lows, "amin")

    def reduce(self, nodes: Tensor) -> Tensor:
        """Return mean, minimum, maximum and deviation, plain and amplified by degree.

        Args:
            nodes: `[neuron, width]`, for its shape and type.

        Returns:
            `[neuron, 8 * width]`; zeros for a neuron that no edge touches.
        """
        if not self.sums:
            return nodes.new_zeros(len(nodes), NUM_REDUCTIONS * nodes.shape[-1])
        return self._reduced(self.degree.to(nodes.dtype), *self._joined())

    def follow(
        self, nodes: Tensor, update: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return what `update` makes of nodes and of what `reduce` tells them.

        Many neurons are updated some at a time, since both take nine times the memory
        of the nodes.
        """
        if self.is_pure or not self.sums or len(nodes) <= UPDATED_NEURONS:
            return update(nodes, self.reduce(nodes))
        degree = self.degree.to(nodes.dtype)
        sums, lows = self._joined()
        parts = (item.split(UPDATED_NEURONS) for item in (nodes, degree, sums, lows))
        return torch.cat(
            [
                update(some, self._reduced(*rest))
                for some, *rest in zip(*parts, strict=True)
            ]
        )

    def _reduced(self, degree: Tensor, sums: Tensor, lows: Tensor) -> Tensor:
        """Return what `reduce` does, of some neurons."""
        degree = degree[:, None]
        is_touched = degree > 0
        mean, square = (sums / degree.clamp_min(1)).chunk(2, dim=-1)
        low, high = torch.where(is_touched, lows, 0.0).chunk(2, dim=-1)
        deviation = ((square - mean.square()).relu() + 1e-5).sqrt() * is_touched
        plain = torch.cat([mean, low, -high, deviation], dim=-1)
        amplifier = torch.log(degree + 1) / self.typical_log_degree
        return torch.cat([plain, plain * amplifier], dim=-1)

    def _joined(self) -> tuple[Tensor, Tensor]:
        """Return sums and minima of all tiles, `[neuron, 2 * width]` each."""
        if not self.is_pure:
            return self.sums[0], self.lows[0]
        index, sums, lows = map(torch.cat, (self.neurons, self.sums, self.lows))
        empty = sums.new_zeros(len(self.degree), sums.shape[-1])
        return torch.index_add(empty, 0, index, sums), torch.scatter_reduce(
            empty, 0, _rows(index, lows), lows, "amin", include_self=False
        )


def reduced(messages: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return what `Inbox.take` takes of the messages of one tile.

    Args:
        messages: `[part, target, source, width]`; without autograd they are written
            over.
        axis: the senders' axis.
    """
    low, high = messages.amin(axis), messages.amax(axis)
    total, square = messages.sum(axis), squared(messages).sum(axis)
    return torch.cat([total, square], dim=-1), torch.cat([low, -high], dim=-1)


def _rows(index: Tensor, values: Tensor) -> Tensor:
    return index[:, None].expand_as(values)
