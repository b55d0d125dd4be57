r"""Messages along edges, reduced per receiver and collected per neuron.

.. math:: m_{ij} = scale_{ij} (receive_i + send_j) + shift_{ij}

Two forms of the same reduction: `reduced_messages` in autograd's own operations, and
`reduce_in_cache` for fans with a gradient. Written with autograd's own operations, a
layer would fill memory with messages, their squares and masks several times over; the
second form keeps all of that in a few buffers that fit a cache, forward and backward,
and saves only the modulation in between.
"""

from collections.abc import Callable, Iterator
from math import inf, log
from typing import Any

import torch
from torch import Tensor

from .fast_ops import squared

NUM_REDUCTIONS = 8
"""Mean, minimum, maximum and deviation; each plain and amplified by degree."""

UPDATED_NEURONS = 2**11
"""Neurons that are updated at a time without autograd."""

TYPICAL_LOG_DEGREE = log(32.0)
"""Where the amplification is 1: a neuron with 31 neighbours."""

CACHED_NUMBERS = 2**16
"""Numbers (messages times channels) that `reduce_in_cache` computes at a time."""


def reduced_messages(
    modulation: tuple[Tensor, Tensor], receive: Tensor, send: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """Return sums and extremes of messages.

    Args:
        modulation: scale and shift, `[part, target, source, width]` each.
        receive: states of the receivers, broadcasts to the same shape.
        send: states of the senders, likewise.
        axis: the senders' axis, 1 or 2.

    Returns:
        What `reduced` returns.
    """
    scale, shift = modulation
    return reduced(torch.addcmul(shift, scale, receive + send), axis)


def reduced(messages: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return what `Inbox.take` takes of the messages of one piece of a graph.

    Args:
        messages: `[part, target, source, width]`; overwritten without autograd.
        axis: the senders' axis.

    Returns:
        The sums of messages and of their squares, `[part, receiver, 2 * width]`; and
        the minima of messages and of their negatives, likewise.
    """
    low, high = messages.amin(axis), messages.amax(axis)
    total, square = messages.sum(axis), squared(messages).sum(axis)
    return torch.cat([total, square], dim=-1), torch.cat([low, -high], dim=-1)


def reduce_in_cache(
    modulation: Tensor, receive: Tensor, send: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `reduced_messages` does for a fan; it has a first derivative only.

    Args:
        modulation: `[part, receiver, sender, 2 * width]`, scale and shift.
        receive: `[part, receiver, width]`.
        send: `[part, sender, width]`.

    Returns:
        What `reduced` returns. Where several messages are extreme, they share the
        gradient.
    """
    if torch.compiler.is_compiling():
        # The compiler has its own buffers, and loses what is written to ours.
        scale, shift = modulation.chunk(2, dim=-1)
        ends = receive[:, :, None], send[:, None]
        return reduced_messages((scale, shift), *ends, 2)
    sums, lows = _Reduce.apply(modulation, receive, send)
    return sums, lows


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, modulation: Tensor, receive: Tensor, send: Tensor
    ) -> tuple[Tensor, Tensor]:
        width = receive.shape[-1]
        sums = torch.empty_like(receive).repeat(1, 1, 2)
        lows = torch.empty_like(sums)
        for rows in _runs(modulation):
            _, messages = _messages(modulation[rows], receive[rows], send[rows])
            torch.amin(messages, 2, out=lows[rows, :, :width])
            torch.neg(torch.amax(messages, 2), out=lows[rows, :, width:])
            torch.sum(messages, 2, out=sums[rows, :, :width])
            torch.sum(messages.square_(), 2, out=sums[rows, :, width:])
        ctx.save_for_backward(modulation, receive, send, lows)
        return sums, lows

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        grad_sums, grad_lows = grad_outputs
        modulation, receive, send, lows = ctx.saved_tensors
        width = receive.shape[-1]
        grads = tuple(map(torch.empty_like, (modulation, receive, send)))
        for rows in _runs(modulation):
            own = modulation[rows]
            ends, messages = _messages(own, receive[rows], send[rows])
            total, square = grad_sums[rows, :, None].chunk(2, dim=-1)
            grad = grads[0][rows, ..., width:]  # with respect to shift: the message's
            torch.addcmul(total, messages, square, value=2, out=grad)
            is_extreme = torch.empty_like(messages)
            for extreme, received in zip(
                lows[rows, :, None].chunk(2, dim=-1),
                grad_lows[rows, :, None].chunk(2, dim=-1),
                strict=True,
            ):
                torch.eq(messages, extreme, out=is_extreme)
                share = received / is_extreme.sum(2, keepdim=True)
                grad.addcmul_(is_extreme, share)
                messages.neg_()  # the second extreme is of the negatives, and twice
                grad.neg_()  # negated is as before
            torch.mul(grad, ends, out=grads[0][rows, ..., :width])
            of_ends = torch.mul(grad, own[..., :width], out=ends)
            torch.sum(of_ends, 2, out=grads[1][rows])
            torch.sum(of_ends, 1, out=grads[2][rows])
        return grads


def _runs(modulation: Tensor) -> Iterator[slice]:
    """Cut the parts so that their messages fit in a cache."""
    parts = len(modulation)
    size = modulation[:1].numel() // 2
    most = max(1, CACHED_NUMBERS // max(size, 1)) if modulation.is_cpu else parts
    for start in range(0, parts, max(most, 1)):
        yield slice(start, start + most)


def _messages(
    modulation: Tensor, receive: Tensor, send: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sum of both ends' states, and the messages."""
    scale, shift = modulation.chunk(2, dim=-1)
    ends = receive[:, :, None] + send[:, None]
    return ends, torch.addcmul(shift, scale, ends)


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
