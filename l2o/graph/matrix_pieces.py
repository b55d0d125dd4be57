"""The weights of a graph as matrices: rows are targets, columns are sources.

Whatever a parameter holds, here it is a matrix. A linear map has a row per target and
a column per source and cell; a tensor whose entries belong to single neurons (a bias, a
norm's scale, a depthwise kernel, a table of positions) has a row per neuron and no
neurons at its columns, and so has a lookup table, with a row per feature.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .linear_maps import fan_ins
from .neural_graph import NeuralGraph, Neurons, View, WeightBlock

TIE_KINDS = ("residual", "gate", "dot", "move", "scale")
"""Kinds of edges without a matrix; `scale` is an edge with a weight of its own for each
pair of neurons, as a norm's scale and a depthwise kernel have it."""

KINDS = ("map", "kernel", "depthwise", "table", "scale", "bias", "position")
"""What a matrix can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One matrix of a graph."""

    parameter: str
    """Name of the tensor."""
    kind: str
    """One of `KINDS`."""
    shape: tuple[int, int]
    """Number of rows and of columns."""
    cells: int
    """Number of entries per pair of neurons, or per neuron."""
    is_map: bool
    """Whether it is a linear map; all else follows Adam."""
    is_owned: bool
    """Whether its entries are updated through it; not for further uses of a tied
    weight."""
    is_unplaced: bool
    """Whether its place in the network is in doubt."""
    target: int
    """Group of the neurons of its rows."""
    source: int | None
    """Group of the neurons of its columns; None where these are no neurons."""
    row_neurons: tuple[int, ...]
    """Running number of the neuron of each row."""
    column_neurons: tuple[int, ...]
    """Running number of the neuron of each column; empty where these are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Matrices of one view of one parameter: the parts of a block, or one."""

    view: View
    """Axes (part, row, *column)."""
    matrices: tuple[Matrix, ...]

    @property
    def parameter(self) -> str:
        """Name of the tensor that all of them are part of."""
        return self.matrices[0].parameter

    @property
    def key(self) -> tuple[object, ...]:
        """What pieces of one stack share."""
        first = self.matrices[0]
        return first.is_map, bool(first.column_neurons), first.is_owned

    @property
    def numel(self) -> int:
        """Entries of one matrix."""
        return math.prod(self.matrices[0].shape)


def find_pieces(graph: NeuralGraph) -> list[Piece]:
    """Return all matrices of a graph, those of one view together."""
    maps = fan_ins(graph)
    unplaced = {item.parameter for item in graph.unplaced}
    firsts = _first_neurons(graph)
    tables = {
        block.parameter
        for block in graph.blocks
        if not block.is_alias and block.parameter not in maps
    }
    found = []
    for block in graph.blocks:
        if block.is_alias and block.parameter in tables:
            continue  # a table is read by rows; its use as a map carries no messages
        found.append(
            _block_piece(
                block,
                firsts,
                is_map=block.parameter in maps,
                is_unplaced=block.parameter in unplaced,
            )
        )
    for node in graph.node_parameters:
        rows = _running(node.neurons, firsts)
        cells = node.num_cells
        matrix = Matrix(
            parameter=node.parameter,
            kind="bias" if cells == 1 else "position",
            shape=(len(rows), cells),
            cells=cells,
            is_map=False,
            is_owned=True,
            is_unplaced=node.parameter in unplaced,
            target=node.neurons.group,
            source=None,
            row_neurons=rows,
            column_neurons=(),
        )
        view = node.view
        view = View((1, *view.shape), (0, *view.strides), view.offset)
        found.append(Piece(view=view, matrices=(matrix,)))
    return [piece for piece in found if piece.view.numel]


def _block_piece(
    block: WeightBlock, firsts: Sequence[int], *, is_map: bool, is_unplaced: bool
) -> Piece:
    parts, targets, sources = block.view.shape[:3]
    rows = _running(block.target, firsts)
    columns = _running(block.source, firsts)
    cells, view = block.num_cells, block.view
    name = "" if block.operation is None else block.operation.name
    if (targets, sources) == (1, 1) and parts > 1:  # an entry of its own per neuron
        kind = "depthwise" if is_map else "scale"
        strides = (0, view.strides[0], *view.strides[3:])
        view = View((1, parts, *view.shape[3:]), strides, view.offset)
        parts, targets, columns, width = 1, parts, (), cells
    elif name == "embedding" and not is_map:
        kind, columns, width = "table", (), sources * cells
    else:
        kind = "kernel" if name.startswith("conv") and cells > 1 else "map"
        width = sources * cells
    matrices = tuple(
        Matrix(
            parameter=block.parameter,
            kind=kind,
            shape=(targets, width),
            cells=cells,
            is_map=is_map,
            is_owned=not block.is_alias,
            is_unplaced=is_unplaced,
            target=block.target.group,
            source=block.source.group if columns else None,
            row_neurons=rows[part * targets : (part + 1) * targets],
            column_neurons=tuple(
                neuron
                for neuron in columns[part * sources : (part + 1) * sources]
                for _ in range(cells)
            ),
        )
        for part in range(parts)
    )
    return Piece(view=view, matrices=matrices)


def find_ties(graph: NeuralGraph) -> Iterable[tuple[str, int, int]]:
    """Return kind, source and target of each edge without a matrix."""
    firsts = _first_neurons(graph)
    for tie in graph.ties:
        source, target = _running(tie.source, firsts), _running(tie.target, firsts)
        for pair in zip(source, target, strict=True):
            yield (tie.kind, *pair)
    for block in graph.blocks:
        if block.view.shape[1:3] == (1, 1) and block.parts > 1:
            source = _running(block.source, firsts)
            target = _running(block.target, firsts)
            for pair in zip(source, target, strict=True):
                yield ("scale", *pair)


def _first_neurons(graph: NeuralGraph) -> list[int]:
    """Return the running number of the first neuron of each group."""
    found, total = [], 0
    for group in graph.groups:
        found.append(total)
        total += group.size
    return found


def _running(neurons: Neurons, firsts: Sequence[int]) -> tuple[int, ...]:
    first = firsts[neurons.group]
    return tuple(first + number for number in neurons.index)
