"""Messages through the weights of a graph, with two edge channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.graph.matrices import Stack
from l2o.nets.fast_ops import in_plain_eager

from .blocks import Block, blocks_of, cut
from .row_column import StackValues
from .state import TINY
from .wired import Wired

NUM_CHANNELS = 2
"""Edge channels: magnitude of the weight; of the momentum over the root of the second
moment."""


class WeightExchange:
    """Messages through weights, as matrix products with two edge channels.

    A row receives the mean of its columns' messages, weighted by the magnitudes of the
    weights in one channel, and by the momentum's over the root of the second moment in
    the other; a column receives those of its rows likewise.

    Args:
        values: entries of each stack.
        wired: the graph.
    """

    def __init__(self, values: Sequence[StackValues], wired: Wired) -> None:
        self.values = values
        self.wired = wired
        self.kept: dict[int, Tensor] = {}
        """Edges of padded stacks, which are small."""
        self.room: Tensor | None = None
        self.totals: Tensor | None = None
        """Sums of the weights at each line, `[line, channel, 1]`; from the first
        messages on."""

    def __call__(self, said: Tensor) -> Tensor:
        """Return what arrives at each line, `[line, channel, message]`.

        Args:
            said: `[channel, side, neuron + 1, message]`.
        """
        is_first = self.totals is None
        if is_first:
            # A one is appended to each message, so that weights are summed, too.
            # Messages of padding do not matter: their weights are zero.
            ones = self.wired.one.expand(*said.shape[:-1], 1)
            said = torch.cat([said, ones], dim=-1)
        said = said.flatten(1, 2)
        num_channels, _, width = said.shape
        at_rows, at_columns = [], []
        for number, stack in enumerate(self.wired.stacks.stacks):
            if not stack.has_columns:
                lead, size, _ = stack.shape
                silence = num_channels, lead * size, width
                at_rows.append(self.wired.zero.expand(silence))
                continue
            row, column = self._sent(number, *_at_ends(said, stack))
            at_rows.append(row.flatten(1, 2))
            at_columns.append(column.flatten(1, 2))
        parts = [*at_rows, *at_columns]
        if is_first:
            self.totals = _by_line([part[..., -1:] for part in parts]) + TINY
            parts = [part[..., :-1] for part in parts]
        assert self.totals is not None
        heard = _by_line(parts)
        return heard.div_(self.totals) if in_plain_eager() else heard / self.totals

    def matrices(self) -> list[tuple[Tensor, int, int]]:
        """Return, of each stack with columns, its edges and where its lines start.

        Edges are `[channel, matrix, row, column]`; then the number of the first row
        among all lines, and of the first column.
        """
        wired = self.wired
        return [
            (
                self._edges(k).clone(),
                wired.row_slice(k).start,
                wired.column_slice(k).start,
            )
            for k, stack in enumerate(wired.stacks.stacks)
            if stack.has_columns
        ]

    def _sent(
        self, number: int, to_rows: Tensor, to_columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return weighted sums at rows and at columns of a stack.

        Args:
            number: of the stack.
            to_rows: message of each column, `[channel, matrix, column, message]`.
            to_columns: message of each row, `[channel, matrix, row, message]`.

        Returns:
            `[channel, matrix, row, message]` and `[channel, matrix, column, message]`.
        """
        entries = self.values[number]
        blocks = blocks_of(entries.weight)
        if len(blocks) == 1:
            edges = self._edges(number)
            return edges @ to_rows, edges.mT @ to_columns
        at_rows = torch.zeros_like(to_columns)
        at_columns = torch.zeros_like(to_rows.mT, memory_format=torch.contiguous_format)
        for block in blocks:
            assert block is not None
            edges = self.room = _edges_of(entries, block, self.room)
            edges = edges.to(to_rows.dtype)
            axis, start, length = block
            if axis == -2:
                at_rows.narrow(-2, start, length).copy_(edges @ to_rows)
                # The long side of narrow matrices last, which products like.
                at_columns += to_columns.narrow(-2, start, length).mT @ edges
            else:
                at_rows += edges @ to_rows.narrow(-2, start, length)
                at_columns.narrow(-1, start, length).copy_(to_columns.mT @ edges)
        return at_rows, at_columns.mT

    def _edges(self, number: int) -> Tensor:
        """Return `[channel, matrix, row, column]`; of padded stacks they are kept."""
        if number in self.kept:
            return self.kept[number]
        edges = _edges_of(self.values[number], None)
        edges = edges.to(self.wired.static.dtype)
        if self.wired.stacks.stacks[number].index is not None:
            self.kept[number] = edges
        return edges


def _edges_of(entries: StackValues, block: Block, room: Tensor | None = None) -> Tensor:
    """Return the edges of some entries, `[channel, matrix, row, column]`.

    Args:
        entries: of a stack.
        block: which of them.
        room: a tensor that may be written over and returned if it has the shape.
    """
    weight, second = cut(entries.weight, block), cut(entries.second, block)
    momentum = cut(entries.momenta[0], block)
    if not in_plain_eager():
        ratio = momentum * (second + TINY).rsqrt()
        return torch.stack([weight, ratio]).abs()
    edges = room
    if edges is None or edges.shape[1:] != weight.shape or edges.dtype != weight.dtype:
        edges = torch.empty_like(weight[None].expand(2, -1, -1, -1))
    torch.abs(weight, out=edges[0])
    torch.add(second, TINY, out=edges[1]).rsqrt_().mul_(momentum).abs_()
    return edges


def _by_line(parts: Sequence[Tensor]) -> Tensor:
    """Join `[channel, line, message]` as `[line, channel, message]`."""
    out = None
    if in_plain_eager():
        first = parts[0]
        num_lines = sum(part.shape[1] for part in parts)
        room = first.new_empty(num_lines, len(first), first.shape[-1])
        out = room.transpose(0, 1)
    return torch.cat(list(parts), dim=1, out=out).transpose(0, 1)


def _at_ends(said: Tensor, stack: Stack) -> tuple[Tensor, Tensor]:
    """Return the messages of a stack's columns to rows, and of its rows to columns.

    Args:
        said: `[channel, side * (neuron + 1), message]`.
        stack: the stack.

    Returns:
        `[channel, matrix, column, message]` and `[channel, matrix, row, message]`.
    """
    count, rows, columns = stack.shape
    found = said.index_select(1, stack.ends).split([count * columns, count * rows], 1)
    to_rows, to_columns = (part.unflatten(1, (count, -1)) for part in found)
    return to_rows, to_columns
