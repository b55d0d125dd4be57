"""What the neuron-level rule reads: statistics of rows, columns and whole matrices.

Entries are laid on stacks of matrices (`read_stacks`) and reduced once (`measure`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.graph.matrices import padded_part
from l2o.nets.fast_ops import in_plain_eager, multiplied

from .blocks import Room, SumsOfLines, blocks_of, cut
from .state import TINY, Averages, Reading, State, Tensors, column
from .wired import Wired

LIMIT = 5.0
"""Logarithms of ratios are clipped to this magnitude."""


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
    """`[3 + momenta, matrix + 1]`: by how much weight, gradient, momenta and second
    moment fall short of an average."""


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
    relative: Tensor
    """`[2, line]`: those of weight and second moment, minus their matrix's; clipped."""
    moving: Tensor
    """`[1 + momenta, line + matrix + 1]`: those of gradient and momenta, minus that of
    the second moment."""
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
    values, padded = read_stacks(wired, reading.params, reading.grads, reading.state)
    return Measured(wired, values, clock, measure(values, padded, wired, clock))


def read_stacks(
    wired: Wired,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
) -> tuple[list[StackValues], Tensor | None]:
    """Lay weights, gradients and averages on stacks.

    Args:
        wired: the graph.
        params: name to value, for every parameter of the graph.
        grads: name to gradient, for every parameter of the graph.
        state: of every parameter; averages are widened to the parameters' type.

    Returns:
        The entries of each stack; and those of all padded stacks, `[field, entry]`.
    """
    count = len(next(iter(state.values()))["momenta"]) if state else 1
    momenta = {name: item["momenta"].unbind() for name, item in state.items()}
    second = {name: item["second_moment"] for name, item in state.items()}
    averages = [{name: momenta[name][k] for name in params} for k in range(count)]
    fields = [params, grads, *(_like(item, params) for item in (*averages, second))]
    padding = wired.zero.to(next(iter(params.values())).dtype)
    found = []
    stacked, padded = wired.stacks.gather(fields, padding)
    for item in stacked:
        whole = item if isinstance(item, Tensor) else None
        weight, grad, *averages, second = item
        found.append(StackValues(weight, grad, tuple(averages), second, whole))
    return found, padded


def _like(values: Tensors, params: Tensors) -> Tensors:
    """Return values in the types of the parameters."""
    return {
        name: values[name]
        if values[name].dtype == param.dtype
        else values[name].to(param.dtype)
        for name, param in params.items()
    }


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
    return Clock(steps, averages.ages(steps, num_ones=2))


def measure(
    values: Sequence[StackValues],
    padded: Tensor | None,
    wired: Wired,
    clock: Clock,
) -> Statistics:
    """Return what is measured of all entries.

    Args:
        values: one record per stack.
        padded: entries of all padded stacks, `[field, entry]`.
        wired: the graph.
        clock: ages of the averages.
    """
    rows, columns = [], []
    products = None if padded is None else _products(padded)
    start = 0
    for stack, entries in zip(wired.stacks.stacks, values, strict=True):
        if stack.index is not None:
            assert products is not None
            own = padded_part(products, stack, start)
            start += stack.index.numel()
            by_row, by_column = _summed(own, has_columns=stack.has_columns)
        else:
            by_row, by_column = _sums(entries, has_columns=stack.has_columns)
        rows.append(by_row.flatten(1))
        if by_column is not None:
            columns.append(by_column.flatten(1))
    dtype = wired.static.dtype
    sums = torch.cat([*rows, *columns], dim=1).to(dtype)
    by_row = sums[:, : wired.num_rows]
    matrix = wired.wiring.matrix[: wired.num_rows]
    totals = sums.new_zeros(len(sums), len(wired.owner)).index_add(1, matrix, by_row)
    means = multiplied(torch.cat([sums, totals], dim=1), wired.per_line_or_matrix)
    is_plain = in_plain_eager()
    logs = means[:-1] + TINY
    logs = logs.log_() if is_plain else logs.log()
    signs = column((*[-1.0] * (len(clock.ages) - 1), -0.5), clock.ages)
    ages = (clock.ages.log() * signs).index_select(1, wired.all_matrices)
    logs = torch.add(ages, logs, alpha=0.5, out=ages if is_plain else None)
    num_lines = len(wired.wiring.neuron)
    standing = torch.stack([logs[0], logs[-1]])
    owners = standing[:, num_lines:].index_select(1, wired.wiring.matrix)
    return Statistics(
        means=means,
        logs=logs,
        relative=(standing[:, :num_lines] - owners).clamp(-LIMIT, LIMIT),
        moving=logs[1:-1] - logs[-1:],
        num_lines=num_lines,
    )


def _sums(entries: StackValues, *, has_columns: bool) -> tuple[Tensor, Tensor | None]:
    """Return sums of the statistics, `[statistic, matrix, line]`."""
    weight, grad, momenta, second, whole = entries
    if whole is not None:
        return _summed(_products(whole), has_columns=has_columns)
    pairs = (
        *((values, values) for values in (weight, grad, *momenta)),
        (second, None),
        (grad, momenta[0]),
    )
    room = Room()
    found = SumsOfLines(weight.shape, has_columns=has_columns)
    for block in blocks_of(weight):
        products = (
            cut(left, block)
            if right is None
            else room.product(cut(left, block), cut(right, block))
            for left, right in pairs
        )
        found.add(products)
    return found.by_row(), found.by_column()


def _products(whole: Tensor) -> Tensor:
    """Return what the sums of are the statistics, `[statistic, *entry]`.

    Args:
        whole: weight, gradient, momenta and second moment, `[field, *entry]`.
    """
    return torch.cat([whole[:-1].square(), whole[-1:], whole[1:2] * whole[2:3]])


def _summed(products: Tensor, *, has_columns: bool) -> tuple[Tensor, Tensor | None]:
    """Return sums along rows and columns of `[statistic, matrix, row, column]`."""
    is_vector = products.shape[-1] == 1
    by_row = products.squeeze(-1) if is_vector else products.sum(-1)
    return by_row, products.sum(-2) if has_columns else None
