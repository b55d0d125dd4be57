"""Messages of one layer, reduced per neuron, piece by piece of a graph."""

from collections.abc import Callable
from math import inf, log

import torch
from torch import Tensor

NUM_REDUCTIONS = 8
"""Mean, minimum, maximum and deviation; each plain and amplified by degree."""

UPDATED_NEURONS = 2**11
"""Neurons that are updated at a time without autograd."""

TYPICAL_LOG_DEGREE = log(32.0)
"""Where the amplification is 1: a neuron with 31 neighbours."""


class Inbox:
    """All messages of one layer, reduced per neuron.

    Args:
        degree: `[neuron]`, how many messages each neuron receives.
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
        """Add the reduced messages of one piece of the graph.

        Args:
            neurons: `[part, receiver]`.
            sums: `[part, receiver, 2 * width]`, of messages and of their squares.
            lows: `[part, receiver, 2 * width]`, minima of messages and of negatives.
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
            nodes: `[neuron, width]`, for its shape and dtype.

        Returns:
            `[neuron, 8 * width]`; zeros for a neuron that no edge touches.
        """
        if not self.sums:
            return nodes.new_zeros(len(nodes), NUM_REDUCTIONS * nodes.shape[-1])
        return self._reduced(self.degree.to(nodes.dtype), *self._joined())

    def follow(
        self, nodes: Tensor, update: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return `update(nodes, self.reduce(nodes))`.

        Without autograd many neurons are updated in pieces, since the two arguments
        together take nine times the memory of the nodes.
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
        """Return what `reduce` does, for some neurons."""
        degree = degree[:, None]
        is_touched = degree > 0
        mean, square = (sums / degree.clamp_min(1)).chunk(2, dim=-1)
        low, high = torch.where(is_touched, lows, 0.0).chunk(2, dim=-1)
        deviation = ((square - mean.square()).relu() + 1e-5).sqrt() * is_touched
        plain = torch.cat([mean, low, -high, deviation], dim=-1)
        amplifier = torch.log(degree + 1) / self.typical_log_degree
        return torch.cat([plain, plain * amplifier], dim=-1)

    def _joined(self) -> tuple[Tensor, Tensor]:
        """Return sums and minima over all pieces, `[neuron, 2 * width]` each."""
        if not self.is_pure:
            return self.sums[0], self.lows[0]
        index, sums, lows = map(torch.cat, (self.neurons, self.sums, self.lows))
        empty = sums.new_zeros(len(self.degree), sums.shape[-1])
        return torch.index_add(empty, 0, index, sums), torch.scatter_reduce(
            empty, 0, _rows(index, lows), lows, "amin", include_self=False
        )


def _rows(index: Tensor, values: Tensor) -> Tensor:
    return index[:, None].expand_as(values)
