"""A graph as stacks of matrices.

Matrices that are alike lie in one *stack* and are computed together, so the number of
operations does not grow with depth. Small ones are padded with zeros to a common size,
which changes neither sums nor products of rows.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .caching import derived
from .layout import merged_strides, put_views, take_view
from .matrix_groups import alike_groups, padded_groups
from .matrix_pieces import Matrix, Piece, find_pieces, find_ties
from .neural_graph import NeuralGraph, View

SMALL_ENTRIES = 2**15
"""Matrices of at most this many entries are padded and stacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Matrices of one size, computed together."""

    matrices: slice
    """Which of `MatrixStacks.matrices`."""
    shape: tuple[int, int, int]
    """Number of matrices, rows, columns."""
    is_map: bool
    has_columns: bool
    """Whether columns belong to neurons."""
    is_owned: bool
    pieces: tuple[Piece, ...]
    """Where the entries come from, if they are not padded."""
    index: Tensor | None
    """`[matrix, row, column]`: place of each entry among `MatrixStacks.padded`, one
    past the last for padding; None where the stack is not padded."""
    row_neurons: Tensor
    """`[matrix, row]`: node of each row, the number of nodes for padding."""
    column_neurons: Tensor
    """`[matrix, column]`, likewise; empty without columns."""
    ends: Tensor
    """`[end]`: nodes of all columns, then those of all rows plus the number of nodes
    and one; empty without columns."""

    def in_place(self, params: Mapping[str, Tensor]) -> Tensor | None:
        """Return the entries as a view of their parameter, `[matrix, row, column]`.

        Args:
            params: name to a contiguous tensor.

        Returns:
            None where the parameter is not among these.
        """
        (piece, *_) = self.pieces
        if self.index is not None or piece.parameter not in params:
            return None
        strides = merged_strides(piece.view, lead=2)
        assert strides is not None
        whole = params[piece.parameter]
        start = whole.storage_offset() + piece.view.offset
        return whole.as_strided(self.shape, strides, start)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixStacks:
    """A whole graph as matrices in stacks."""

    shapes: dict[str, tuple[int, ...]]
    """Of all parameters."""
    matrices: tuple[Matrix, ...]
    """All of them, stack after stack."""
    stacks: tuple[Stack, ...]
    padded: tuple[str, ...]
    """Parameters whose entries are gathered by index, one after another."""
    entries: Tensor
    """Place of each entry of all padded stacks, one stack after another, among those of
    `padded`; one past the last for padding."""
    in_place: tuple[str, ...]
    """Parameters whose stacks are views of them."""
    places: Tensor
    """For each entry of the parameters in `padded`, its place among the entries of all
    owned padded stacks, one stack after another."""
    nodes: tuple[int, ...]
    """Running number of the neurons that a row, a column or a tie touches."""
    ties: tuple[tuple[str, int, int], ...]
    """Kind, source node and target node of each edge without a matrix."""

    def gather(
        self, fields: Sequence[Mapping[str, Tensor]], padding: Tensor
    ) -> tuple[list[Tensor | list[Tensor]], Tensor | None]:
        """Return the entries of each stack, and those of all padded ones as one tensor.

        Where those of a stack can be views of what was passed, they are a list, one
        `[matrix, row, column]` per field; else one tensor, `[field, matrix, row,
        column]`. Those of padded stacks are views of `[field, entry]`, one stack after
        another; None without any.

        Args:
            fields: each holds name to `[*shape]`, for every parameter of the graph.
            padding: `[1]`, a zero of their type.
        """
        flat = None
        if self.padded:
            rows: list[Tensor] = []
            for field in fields:
                rows += [field[name].reshape(-1) for name in self.padded]
                rows.append(padding)
            flat = torch.cat(rows).view(len(fields), -1)
        taken = None if flat is None else flat.index_select(1, self.entries)
        found: list[Tensor | list[Tensor]] = []
        start = 0
        for stack in self.stacks:
            if stack.index is not None:
                assert taken is not None
                found.append(padded_part(taken, stack, start))
                start += stack.index.numel()
                continue
            pieces = [
                take_view(
                    field[piece.parameter],
                    self.shapes[piece.parameter],
                    piece.view,
                    lead=2,
                )
                for field in fields
                for piece in stack.pieces
            ]
            if len(stack.pieces) > 1:
                found.append(torch.cat(pieces).view(-1, *stack.shape))
            else:
                found.append(pieces)
        return found, taken

    def scatter(
        self, stacked: Sequence[Tensor], written: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return each parameter's own tensor: inverse of `gather`.

        Args:
            stacked: one tensor for each stack; of those that are not owned, anything.
            written: parameters whose stacks are views of these tensors, if any.
        """
        shapes = self.shapes
        written = {} if written is None else written
        found = dict(written)
        if self.padded:
            flat = torch.cat(
                [
                    values.flatten()
                    for stack, values in zip(self.stacks, stacked, strict=True)
                    if stack.is_owned and stack.index is not None
                ]
            ).index_select(0, self.places)
            sizes = [math.prod(shapes[name]) for name in self.padded]
            for name, values in zip(self.padded, flat.split(sizes), strict=True):
                found[name] = values.view(shapes[name])
        views: defaultdict[str, list[tuple[View, Tensor]]] = defaultdict(list)
        for stack, values in zip(self.stacks, stacked, strict=True):
            if not stack.is_owned or stack.index is not None:
                continue
            if stack.pieces[0].parameter in written:
                continue
            sizes = [len(piece.matrices) for piece in stack.pieces]
            for piece, part in zip(stack.pieces, values.split(sizes), strict=True):
                whole = part.reshape(piece.view.shape)
                views[piece.parameter].append((piece.view, whole))
        for name, pieces in views.items():
            found[name] = put_views(shapes[name], pieces)
        return found


def padded_part(values: Tensor, stack: Stack, start: int) -> Tensor:
    """Return a stack's part of all padded ones, `[field, matrix, row, column]`.

    Args:
        values: `[field, entry]`.
        stack: the stack.
        start: number of entries before its own.
    """
    part = values.narrow(1, start, math.prod(stack.shape))
    return part.unflatten(1, stack.shape)


@derived
def find_matrices(graph: NeuralGraph, device: torch.device) -> MatrixStacks:
    """Return the graph as matrices; computed once per device.

    Args:
        graph: the neural graph.
        device: of the indices; its kind decides the size of stacks.
    """
    found = host_matrices(graph, is_split=device.type == "cpu")
    stacks = tuple(
        replace(
            stack,
            index=None if stack.index is None else stack.index.to(device),
            row_neurons=stack.row_neurons.to(device),
            column_neurons=stack.column_neurons.to(device),
            ends=stack.ends.to(device),
        )
        for stack in found.stacks
    )
    return replace(
        found,
        stacks=stacks,
        entries=found.entries.to(device),
        places=found.places.to(device),
    )


@derived
def host_matrices(graph: NeuralGraph, *, is_split: bool) -> MatrixStacks:
    """Return the graph as matrices, with all indices on the CPU.

    Args:
        graph: the neural graph.
        is_split: whether large matrices are computed one by one, as on a CPU, whose
            caches are small; else those of one shape lie in one stack.
    """
    pieces = find_pieces(graph)
    small_names = _small_parameters(pieces)
    groups = [
        *padded_groups(
            [p for p in pieces if p.parameter in small_names], is_split=is_split
        ),
        *alike_groups(
            [p for p in pieces if p.parameter not in small_names],
            is_split=is_split,
            num_entries=graph.num_parameters,
        ),
    ]
    padded = tuple(name for name in graph.shapes if name in small_names)
    ties = list(find_ties(graph))
    nodes, node_of = _nodes(pieces, ties)
    starts, total = {}, 0
    for name in padded:
        starts[name] = total
        total += math.prod(graph.shapes[name])
    stacks: list[Stack] = []
    matrices: list[Matrix] = []
    places = torch.zeros(total, dtype=torch.int64, device="cpu")
    room = 0
    for group in groups:
        own = [matrix for piece in group for matrix in piece.matrices]
        is_padded = group[0].parameter in small_names
        rows = max(matrix.shape[0] for matrix in own)
        columns = max(matrix.shape[1] for matrix in own)
        shape = len(own), rows, columns
        index = None
        if is_padded:
            index = _padded_index(group, shape, starts, total)
            if own[0].is_owned:
                is_entry = index < total
                numbers = torch.arange(index.numel(), device="cpu").view(shape)
                places[index[is_entry]] = numbers[is_entry] + room
                room += index.numel()
        has_columns = bool(own[0].column_neurons)
        column_numbers = [m.column_neurons for m in own] if has_columns else []
        of_rows = _numbers([m.row_neurons for m in own], rows, node_of)
        of_columns = _numbers(column_numbers, columns, node_of)
        ends = [of_columns, of_rows + len(nodes) + 1] if has_columns else [of_columns]
        stacks.append(
            Stack(
                matrices=slice(len(matrices), len(matrices) + len(own)),
                shape=shape,
                is_map=own[0].is_map,
                has_columns=has_columns,
                is_owned=own[0].is_owned,
                pieces=tuple(group),
                index=index,
                row_neurons=of_rows,
                column_neurons=of_columns,
                ends=torch.cat([numbers.flatten() for numbers in ends]),
            )
        )
        matrices += own
    return MatrixStacks(
        matrices=tuple(matrices),
        stacks=tuple(stacks),
        padded=padded,
        entries=torch.cat(
            [places.new_empty(0)]
            + [stack.index.flatten() for stack in stacks if stack.index is not None]
        ),
        in_place=_in_place(graph, stacks),
        places=places,
        nodes=nodes,
        ties=tuple((kind, node_of[a], node_of[b]) for kind, a, b in ties),
        shapes=graph.shapes,
    )


def _in_place(graph: NeuralGraph, stacks: Iterable[Stack]) -> tuple[str, ...]:
    """Return the parameters all of whose stacks are views of them."""
    outside: set[str] = set()
    for stack in stacks:
        has_strides = merged_strides(stack.pieces[0].view, lead=2) is not None
        if stack.index is not None or len(stack.pieces) > 1 or not has_strides:
            outside.update(piece.parameter for piece in stack.pieces)
    return tuple(name for name in graph.shapes if name not in outside)


def _nodes(
    pieces: Iterable[Piece], ties: Iterable[tuple[str, int, int]]
) -> tuple[tuple[int, ...], dict[int, int]]:
    """Return the neurons that a row, column or tie touches, and the place of each."""
    touched: set[int] = set()
    for piece in pieces:
        for matrix in piece.matrices:
            touched.update(matrix.row_neurons, matrix.column_neurons)
    for _, source, target in ties:
        touched.update((source, target))
    nodes = tuple(sorted(touched))
    return nodes, {neuron: place for place, neuron in enumerate(nodes)}


def _small_parameters(pieces: Iterable[Piece]) -> set[str]:
    """Return the parameters all of whose matrices are small."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for piece in pieces:
        sizes[piece.parameter] = max(sizes[piece.parameter], piece.numel)
    return {name for name, size in sizes.items() if size <= SMALL_ENTRIES}


def _padded_index(
    group: Sequence[Piece],
    shape: tuple[int, int, int],
    starts: Mapping[str, int],
    padding: int,
) -> Tensor:
    index = torch.full(shape, padding, dtype=torch.int64, device="cpu")
    number = 0
    for piece in group:
        own = torch.full((), piece.view.offset, dtype=torch.int64, device="cpu")
        for length, stride in zip(piece.view.shape, piece.view.strides, strict=True):
            own = own[..., None] + stride * torch.arange(length, device="cpu")
        own = own.reshape(*own.shape[:2], -1) + starts[piece.parameter]
        count, rows, columns = own.shape
        index[number : number + count, :rows, :columns] = own
        number += count
    return index


def _numbers(
    lines: Sequence[Sequence[int]],
    length: int,
    node_of: Mapping[int, int],
) -> Tensor:
    """Return the node of every line, `[matrix, line]`, padded."""
    none = len(node_of)
    rows = [
        [*map(node_of.__getitem__, line), *[none] * (length - len(line))]
        for line in lines
    ]
    return torch.tensor(rows, dtype=torch.int64, device="cpu")
