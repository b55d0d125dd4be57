"""What the neuron-level rule reads: statistics of rows, columns and whole matrices.

Entries are laid on stacks of matrices (`read_stacks`) and reduced once (`measure`);
`WeightExchange` sends messages through them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from l2o.nets.fast_ops import in_plain_eager

from .state import TINY, Averages, Reading, State
from .wired import Wired

LIMIT = 5.0
"""Logarithms of ratios are clipped to this magnitude."""

NUM_CHANNELS = 2
"""Edge channels: magnitude of the weight; of the momentum over the root of the second
moment."""


class StackValues(NamedTuple):
    """The entries of one stack: `[matrix, row, column]` each."""

    weight: Tensor
    grad: Tensor
    momenta: tuple[Tensor, ...]
    second: Tensor
    whole: Tensor | None
    """`[field, matrix, row, column]`: all of these, where they lie in one tensor."""


class Clock(NamedTuple):
    """How old averages are."""

    steps: Tensor
    """`[matrix + 1]`, numbers of gradients seen; 1 for the padding."""
    ages: Tensor
    """`[2 + momenta, matrix + 1]`: by how much gradient, momenta and second moment fall
    short of an average."""


class Statistics(NamedTuple):
    """Means over the entries of lines, then of matrices, the padding's last.

    Along the first axis: squares of weight, gradient and each momentum; second moment;
    gradient times first momentum.
    """

    means: Tensor
    """`[statistic, line + matrix + 1]`."""
    logs: Tensor
    """`[statistic - 1, line + matrix + 1]`: logarithms of the roots of all but the
    last, averages corrected for their age."""
    num_lines: int


class Measured(NamedTuple):
    """All that a step of the rule reads, laid on stacks, and its statistics."""

    wired: Wired
    values: list[StackValues]
    """Of each stack."""
    clock: Clock
    statistics: Statistics


def measured(wired: Wired, reading: Reading, averages: Averages) -> Measured:
    """Return what a step reads, measured.

    Args:
        wired: the graph.
        reading: parameters, gradients and state.
        averages: decays of the state.
    """
    clock = read_clock(wired, reading.state, averages)
    values = read_stacks(wired, reading.params, reading.grads, reading.state)
    return Measured(wired, values, clock, measure(values, wired, clock))


def read_stacks(
    wired: Wired,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
) -> list[StackValues]:
    """Lay weights, gradients and averages on stacks.

    Args:
        wired: the graph.
        params: name to value, for every parameter of the graph.
        grads: name to gradient, for every parameter of the graph.
        state: of every parameter; averages are widened to the parameters' type.
    """
    count = len(next(iter(state.values()))["momenta"]) if state else 1
    momenta = {name: item["momenta"].unbind() for name, item in state.items()}
    fields = [
        params,
        grads,
        *(
            {name: momenta[name][place].to(params[name].dtype) for name in params}
            for place in range(count)
        ),
        {name: state[name]["second_moment"].to(params[name].dtype) for name in params},
    ]
    found = []
    for item in wired.stacks.gather(fields):
        whole = item if isinstance(item, Tensor) else None
        weight, grad, *averages, second = item
        found.append(StackValues(weight, grad, tuple(averages), second, whole))
    return found


def read_clock(wired: Wired, state: State, averages: Averages) -> Clock:
    """Return how old the averages of each matrix are.

    Args:
        wired: the graph.
        state: of every parameter, this step's gradients included.
        averages: their decays.
    """
    names = wired.stacks.shapes
    steps = torch.stack([state[name]["step"] for name in names]).to(wired.static.dtype)
    steps = steps.index_select(0, wired.owner)
    ages = averages.ages(steps)
    return Clock(steps, torch.cat([wired.one.expand(1, len(steps)), ages]))


def measure(values: Sequence[StackValues], wired: Wired, clock: Clock) -> Statistics:
    """Return what is measured of all entries.

    Args:
        values: one record per stack.
        wired: the graph.
        clock: ages of the averages.
    """
    rows, columns = [], []
    for stack, entries in zip(wired.stacks.stacks, values, strict=True):
        by_row, by_column = _sums(entries, has_columns=stack.has_columns)
        rows.append(by_row.flatten(1))
        if by_column is not None:
            columns.append(by_column.flatten(1))
    dtype = wired.static.dtype
    sums = torch.cat([*rows, *columns], dim=1).to(dtype)
    lines = sums * wired.per_line
    by_row = lines[:, : wired.num_rows]
    matrix = wired.wiring.matrix[: wired.num_rows]
    totals = lines.new_zeros(len(lines), len(wired.owner)).index_add(1, matrix, by_row)
    means = torch.cat([lines, totals / wired.heights], dim=1)
    halves = 0.5 * (means[:-1] + TINY).log()
    ages = clock.ages.log()
    ages = torch.cat([ages[:1], ages[:-1], 0.5 * ages[-1:]])  # weights have none
    logs = halves - ages.index_select(1, wired.all_matrices)
    return Statistics(means, logs, len(wired.wiring.neuron))


_BLOCK_ENTRIES = 2**17
"""Entries that are computed at a time on a CPU without autograd: what one operation
leaves is still in the cache when the next one reads it, and little memory is needed."""

Block: TypeAlias = tuple[slice, slice, slice]
"""Matrices, rows and columns."""
WHOLE: Block = (slice(None), slice(None), slice(None))


def blocks_of(values: Tensor, size: int = _BLOCK_ENTRIES) -> list[Block]:
    """Cut `[matrix, row, column]` along the axis that lies outermost in memory.

    Args:
        values: entries of a stack; whole on an accelerator and where autograd, the
            compiler or a transform of functorch is at work.
        size: about how many entries a block has.
    """
    if values.device.type != "cpu" or not in_plain_eager():
        return [WHOLE]
    by_row = values.stride(-2) >= values.stride(-1)
    length = values.shape[-2 if by_row else -1]
    step = max(1, size * length // max(values.numel(), 1))
    cuts = [slice(start, start + step) for start in range(0, length, step)]
    every = slice(None)
    return [(every, cut, every) if by_row else (every, every, cut) for cut in cuts]


def _sums(entries: StackValues, *, has_columns: bool) -> tuple[Tensor, Tensor | None]:
    """Return sums of the statistics, `[statistic, matrix, line]`."""
    weight, grad, momenta, second, whole = entries
    if whole is not None:
        crossed = (grad * momenta[0])[None]
        products = torch.cat([whole[:-1].square(), second[None], crossed])
        return products.sum(-1), products.sum(-2) if has_columns else None
    pairs = (
        *((values, values) for values in (weight, grad, *momenta)),
        (second, None),
        (grad, momenta[0]),
    )
    _, rows, columns = weight.shape
    by_row, by_column = _Merged(rows), _Merged(columns)
    place = None
    for block in blocks_of(weight):
        at_row, at_column = [], []
        for left, right in pairs:
            product = left[block]
            if right is not None:
                is_free = place is not None and place.shape == product.shape
                out = place if is_free and in_plain_eager() else None
                place = product = torch.mul(product, right[block], out=out)
            at_row.append(product.sum(-1))
            if has_columns:
                at_column.append(product.sum(-2))
        by_row.add(at_row)
        by_column.add(at_column)
    return by_row.found(), by_column.found() if has_columns else None


class _Merged:
    """Sums along lines that come block by block.

    Args:
        length: number of lines.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.parts: list[Tensor] = []

    def add(self, sums: Sequence[Tensor]) -> None:
        """Take those of one block, each `[matrix, line]`: some lines, or parts of all.

        Args:
            sums: one per statistic.
        """
        if not sums:
            return
        new = torch.stack(list(sums))
        if self.parts and new.shape[-1] == self.length:
            self.parts[0] += new
        else:
            self.parts.append(new)

    def found(self) -> Tensor:
        """Return `[statistic, matrix, line]`."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=-1)


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

    def __call__(self, said: Tensor) -> Tensor:
        """Return what arrives at each line, `[channel, line, message]`.

        Args:
            said: `[side, channel, neuron + 1, message]`.
        """
        # A one is appended to each message, so that weights are summed, too. Messages
        # of padding do not matter: their weights are zero.
        ones = self.wired.one.expand(*said.shape[:-1], 1)
        to_rows, to_columns = torch.cat([said, ones], dim=-1).unbind()
        at_rows, at_columns = [], []
        for number, stack in enumerate(self.wired.stacks.stacks):
            if not stack.has_columns:
                lead, size, _ = stack.shape
                silence = len(to_rows), lead * size, to_rows.shape[-1]
                at_rows.append(self.wired.zero.expand(silence))
                continue
            row, column = self._sent(
                number,
                _at_ends(to_rows, stack.column_neurons),
                _at_ends(to_columns, stack.row_neurons),
            )
            at_rows.append(row.flatten(1, 2))
            at_columns.append(column.flatten(1, 2))
        heard = torch.cat([*at_rows, *at_columns], dim=1)
        return heard[..., :-1] / (heard[..., -1:] + TINY)

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
            return edges @ to_rows, (to_columns.mT @ edges).mT
        at_rows = torch.zeros_like(to_columns)
        at_columns = torch.zeros_like(to_rows.mT, memory_format=torch.contiguous_format)
        for every, rows, columns in blocks:
            edges = self.room = _edges_of(entries, (every, rows, columns), self.room)
            edges = edges.to(to_rows.dtype)
            at_rows[:, :, rows] += edges @ to_rows[:, :, columns]
            # The long side of narrow matrices last, which products like.
            at_columns[..., columns] += to_columns[:, :, rows].mT @ edges
        return at_rows, at_columns.mT

    def _edges(self, number: int) -> Tensor:
        """Return `[channel, matrix, row, column]`; of padded stacks they are kept."""
        if number in self.kept:
            return self.kept[number]
        edges = _edges_of(self.values[number], WHOLE)
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
    weight, second = entries.weight[block], entries.second[block]
    momentum = entries.momenta[0][block]
    if not in_plain_eager():
        ratio = momentum * (second + TINY).rsqrt()
        return torch.stack([weight, ratio]).abs()
    edges = room
    if edges is None or edges.shape[1:] != weight.shape or edges.dtype != weight.dtype:
        edges = torch.empty_like(weight[None].expand(2, -1, -1, -1))
    torch.abs(weight, out=edges[0])
    torch.add(second, TINY, out=edges[1]).rsqrt_().mul_(momentum).abs_()
    return edges


def _at_ends(said: Tensor, neurons: Tensor) -> Tensor:
    """Return the messages at the ends of a stack, `[channel, matrix, end, message]`.

    Args:
        said: `[channel, neuron + 1, message]`.
        neurons: `[matrix, end]`.
    """
    ends = said.index_select(1, neurons.flatten())
    return ends.view(len(said), *neurons.shape, said.shape[-1])
