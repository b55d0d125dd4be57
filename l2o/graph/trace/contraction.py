"""Rules for operators that sum products over an axis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation

from .calls import Call, Found
from .labels import Codes, Labelled, Labels
from .pointwise import pointwise
from .trace_log import Ids, axes_of, first_order
from .tracer import Tracer


def matmul(tracer: Tracer, call: Call) -> Found:
    """Follow a matrix product, with or without an addend."""
    given = call.given
    left = next(given[k] for k in ("mat1", "batch1", "mat", "self") if k in given)
    keys = ("mat2", "batch2", "vec", "tensor")
    right = next(given[key] for key in keys if given.get(key) is not None)
    labels = multiplied(tracer, left, right)
    if call.name not in ("addmm", "baddbmm", "addmv"):
        return labels
    shape = [*left.shape[:-1], *right.shape[right.dim() - 1 :][: right.dim() > 1]]
    result = Labelled(torch.empty(shape, device="meta"), labels)
    add = Operation(name="add")
    return pointwise(tracer, add, [result, call.see("self")], len(shape))


def multiplied(tracer: Tracer, left: Tensor, right: Tensor) -> Labels:
    """Return the labels of `left @ right`, of at most three axes each."""
    first, second = tracer.store.see(left), tracer.store.see(right)
    if first.labels.is_plain and second.labels.is_plain:
        return Labels(depends=True)
    places = {1: (2,), 2: (1, 2), 3: (0, 1, 2)}
    rows = first.placed((1, 1, 1), places[left.dim()])
    ends = (1,) if right.dim() == 1 else places[right.dim()]
    columns = second.placed((1, 1, 1), ends)
    labels = product(tracer, rows, columns, Operation(name="linear"))
    gone = [axis for axis, least in ((0, 3), (1, 2)) if left.dim() < least]
    gone += [2] if right.dim() == 1 else []
    planes = []
    for plane in labels.planes:
        for axis in reversed(gone):
            plane = plane.select(axis, 0)
        planes.append(plane)
    codes = None
    if labels.codes is not None:  # a product of two parameters
        shape = [*left.shape[:-1], *right.shape[right.dim() - 1 :][: right.dim() > 1]]
        zeros = (0,) * len(shape)
        codes = replace(labels.codes, shape=tuple(shape), strides=zeros)
    return Labels(planes=tuple(planes), codes=codes, depends=True)


def grouped(tracer: Tracer, call: Call) -> Found:
    """Follow a product of runs of rows, each with a matrix of its own (experts).

    Each expert has neurons of its own, which take turns in the rows of the result.
    """
    data, weight = call.see("self"), call.see("mat2")
    is_simple = len(data.shape) == 2 and len(weight.shape) == 3
    if weight.codes is None or not is_simple or call.given.get("bias") is not None:
        return None
    if data.codes is not None:
        data = tracer.promote(data, 1)
    rows = data.placed((1, 1, 1), (1, 2))
    labels = _weighted(tracer, rows, weight.codes, Operation(name="linear"))
    planes = []
    for plane in labels.planes:
        line = tracer.joins.vector(plane, (1, 2))
        planes += [] if line is None else [line[0]]
    return Labels(planes=tuple(planes), depends=True)


def product(
    tracer: Tracer, first: Labelled, second: Labelled, operation: Operation
) -> Labels:
    """Return the labels of `[b, m, k] @ [b, k, n]`."""
    if first.codes is not None and second.codes is not None:
        if not _is_query(first.codes, second.codes):
            for codes in (first.codes, second.codes):
                tracer.log.unplace(codes, "it is multiplied by another parameter")
            shape = first.shape[0], first.shape[1], second.shape[2]
            blurred = Codes(shape, (0, 0, 0), first.codes.offset, is_summary=True)
            return Labels(codes=blurred, depends=True)
        first = tracer.promote(first, 2)
    if second.codes is not None:
        return _weighted(tracer, first, second.codes, operation)
    is_turned = bool(second.planes) and second.value.stride(1) == 1
    if first.codes is not None and is_turned and first.codes.affine() is not None:
        first = tracer.promote(first, 2)  # learned queries meet transposed keys
    if first.codes is not None:
        flipped = _flip(tracer, second)
        weight = first.codes.reshaped(_turned(first.shape), (0, 2, 1))
        labels = _weighted(tracer, flipped, weight, operation)
        planes = tuple(plane.transpose(1, 2) for plane in labels.planes)
        return Labels(planes=planes, depends=True)
    return _dotted(tracer, first, second)


def _is_query(first: Codes, second: Codes) -> bool:
    """Whether of two parameters the second is a layer that reads the first.

    A layer's weight arrives transposed. Otherwise the product is a weight itself, such
    as a low-rank update, whose factors are no layers.
    """
    is_raw = first.dense is None and second.dense is None
    is_matrix = is_raw and first.strides[0] == 0 and second.strides[0] == 0
    return not is_matrix or second.strides[1] < second.strides[2]


def _turned(shape: Sequence[int]) -> tuple[int, ...]:
    return shape[0], shape[2], shape[1]


def _flip(tracer: Tracer, seen: Labelled) -> Labelled:
    """Return a tensor with its last two axes exchanged; views keep its storage."""
    if seen.planes or seen.codes is not None:
        planes = tuple(plane.transpose(1, 2) for plane in seen.planes)
        return Labelled(seen.value.transpose(1, 2), Labels(planes=planes, depends=True))
    return tracer.store.see(seen.value.transpose(1, 2))


def _weighted(
    tracer: Tracer, data: Labelled, weight: Codes, operation: Operation
) -> Labels:
    """Return the labels of activations times a weight `[b, k, n]`."""
    batch, inner, outer = weight.shape
    parts = batch if 0 in weight.axes else 1
    tables = None if weight.is_summary else _tables(weight, parts)
    if tables is None:
        tracer.log.unplace(weight, "its entries are used out of order")
        for plane in data.planes:
            tracer.log.freeze(plane)
        return Labels(depends=True)
    key = tuple(
        (table.base, table.rows.tobytes(), table.columns.tobytes()) for table in tables
    )
    sources, kept = _inner(tracer, data, parts, inner, key)
    rows = [None] * parts if sources is None else list(sources.reshape(parts, inner))
    target, is_new = tracer.targets(key, weight, parts * outer, rows, operation)
    for part, table in enumerate(tables) if is_new else ():
        ids = target[part * outer : (part + 1) * outer].numpy()
        connect(tracer, table, ids, rows[part], operation)
    if parts > 1:
        for plane in kept:
            tracer.log.distinguish(plane, axes_of(plane) & {0})
    return Labels(planes=(target.view(parts, 1, outer), *kept), depends=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixCodes:
    """The codes of a matrix of edges: `base + rows[target] + columns[source]`."""

    base: int
    rows: Ids
    columns: Ids
    sizes: tuple[int, ...] = ()
    """Sizes of the axes of cells."""
    steps: tuple[int, ...] = ()
    """How codes advance along them."""


def _tables(weight: Codes, parts: int) -> list[MatrixCodes] | None:
    """Return the codes of a weight `[b, k, n]` part by part, None if irregular."""
    _, inner, outer = weight.shape
    sizes, steps = ((weight.width,), (1,)) if weight.width > 1 else ((), ())
    if weight.dense is None:
        step, column, row = weight.strides
        return [
            MatrixCodes(
                base=weight.offset + part * step,
                rows=np.arange(outer) * row,
                columns=np.arange(inner) * column,
                sizes=sizes,
                steps=steps,
            )
            for part in range(parts)
        ]
    tables = []
    for grid in weight.tensor().expand(-1, inner, outer).numpy()[:parts]:
        base = int(grid[0, 0])
        rows, columns = grid[0] - base, grid[:, 0] - base
        if (grid < 0).any() or (grid != base + rows + columns[:, None]).any():
            return None
        tables.append(
            MatrixCodes(base=base, rows=rows, columns=columns, sizes=sizes, steps=steps)
        )
    return tables


def _inner(
    tracer: Tracer, data: Labelled, parts: int, inner: int, reader: object
) -> tuple[Ids | None, list[Tensor]]:
    """Return the neurons along the contracted axis, and the planes that stay."""
    allowed = (0, 2) if parts > 1 else (2,)
    found = [plane for plane in data.planes if 2 in axes_of(plane)]
    if inner == 1 or not data.value.stride(2):  # one neuron, perhaps repeated
        found = found or [plane for plane in data.planes if not axes_of(plane)][:1]
    kept = [p for p in data.planes if not any(p is f for f in found) and axes_of(p)]
    for plane in found[1:]:
        tracer.log.freeze(plane)
    plane = tracer.joins.vector(found[0], allowed) if found else None
    for other in found[1:]:
        tracer.log.freeze(other)
        tracer.log.freeze(found[0])
    if plane is None:
        if not found and not data.labels.depends and not data.planes:
            return None, kept  # a constant, such as the first state of a recurrence
        name = "positions" if data.planes or found else "inputs"
        plane = tracer.plain(data, allowed, name, reader)
    ids = plane.expand(parts, 1, inner).reshape(-1)
    return _complete(tracer, ids), kept


def _complete(tracer: Tracer, ids: Tensor) -> Ids:
    """Return neuron numbers with fixed neurons where there were none."""
    holes = ids < 0
    if bool(holes.any()):
        ids = ids.clone()
        ids[holes] = tracer.log.add_group("inputs", int(holes.sum()), frozen=True)
    return ids.numpy()


def _dotted(tracer: Tracer, first: Labelled, second: Labelled) -> Labels:
    """Return the labels of a product of two activations, such as attention scores."""
    left = first.placed((1, 1, 1, 1), (0, 1, 3))  # axes (b, m, n, k)
    right = _swapped(second)
    kept: list[Tensor] = []
    used: set[int] = set()
    for plane in left.planes:
        lines = axes_of(plane)
        hits = [
            (index, other)
            for index, other in enumerate(right.planes)
            if index not in used and axes_of(other) & lines
        ]
        if not hits:
            _alone(tracer, plane, right, kept)
            continue
        index, other = hits[0]
        used.add(index)
        for _, more in hits[1:]:
            tracer.log.freeze(more)
        if {1, 2} & (lines | axes_of(other)) and 3 in lines | axes_of(other):
            tracer.log.freeze(plane)
            tracer.log.freeze(other)
        elif 3 in lines and 3 in axes_of(other):
            tracer.joins.dot(plane, other)
            tracer.mean(plane, (3,))
            tracer.mean(other, (3,))
        elif 3 in lines | axes_of(other):
            tracer.log.freeze(plane)
            tracer.log.freeze(other)
        else:
            kept.append(tracer.joins.cross("gate", plane, other))
    for index, plane in enumerate(right.planes):
        if index not in used:
            _alone(tracer, plane, left, kept)
    planes = tuple(plane[..., 0] for plane in kept)
    return Labels(planes=planes, depends=True)


def _swapped(second: Labelled) -> Labelled:
    """Return `[b, k, n]` as `[b, 1, n, k]`."""
    planes = tuple(plane.transpose(1, 2)[:, None] for plane in second.planes)
    value = second.value.transpose(1, 2)[:, None]
    depends, noise = second.labels.depends, second.labels.noise
    return Labelled(value, Labels(planes=planes, depends=depends, noise=noise))


def _alone(tracer: Tracer, plane: Tensor, other: Labelled, kept: list[Tensor]) -> None:
    """Carry a plane that the other operand does not have through a product."""
    if not axes_of(plane):
        tracer.log.freeze(plane)
        return
    tracer.admit(plane, other)
    if 3 in axes_of(plane):
        tracer.mean(plane, (3,))
    else:
        kept.append(plane)


@dataclass(frozen=True, slots=True)
class _Run:
    """Neurons of one group whose codes are equally spaced."""

    neurons: Ids
    offset: int
    step: int
    cells: tuple[tuple[int, int], ...]
    """Size and step of each axis of cells."""


def connect(
    tracer: Tracer,
    table: MatrixCodes,
    target: Ids,
    source: Ids | None,
    operation: Operation,
) -> None:
    """Record a matrix of edges, a block for each regular piece."""
    if source is None:
        places = np.arange(len(table.columns))
        runs = _march(places, table.columns[:, None], ())
    else:
        runs = _runs(tracer, source, table.columns)
    for row in _march(target, table.rows[:, None], ()):
        for run in runs:
            sizes = (1, len(row.neurons), len(run.neurons))
            codes = Codes(
                (*sizes, *(size for size, _ in run.cells), *table.sizes),
                (0, row.step, run.step, *(step for _, step in run.cells), *table.steps),
                table.base + row.offset + run.offset,
            )
            ends = np.arange(0) if source is None else run.neurons
            tracer.use(codes, row.neurons, ends, operation)


def _runs(tracer: Tracer, source: Ids, columns: Ids) -> list[_Run]:
    """Split sources into runs of one group, one spacing, and equally many cells."""
    groups = tracer.log.group_of(source)
    if (groups == groups[:1]).all() and (source[1:] > source[:-1]).all():
        return _split(source, columns)  # one group, one cell per neuron
    runs: list[_Run] = []
    for group in first_order(groups)[0]:
        places = np.flatnonzero(groups == group)
        _, rank = first_order(source[places])
        counts = np.bincount(rank)
        for count in np.unique(counts):
            chosen = places[counts[rank] == count]
            runs += _split(source[chosen], columns[chosen])
    return runs


def _split(source: Ids, columns: Ids) -> list[_Run]:
    """Split neurons of equally many cells each into affine runs."""
    neurons, rank = first_order(source)
    order = np.argsort(rank, kind="stable")
    grid = columns[order].reshape(len(neurons), -1)
    shifts = grid[0] - grid[0, 0]
    cells = _factor(shifts)
    if cells is None or not (grid - grid[:, :1] == shifts).all():  # one run per cell
        lines = [grid[:, [cell]] for cell in range(grid.shape[1])]
        return [run for line in lines for run in _march(neurons, line, ())]
    return _march(neurons, grid, cells)


def _march(neurons: Ids, grid: Ids, cells: tuple[tuple[int, int], ...]) -> list[_Run]:
    """Sort neurons by their codes, and split them where the spacing changes."""
    order = np.argsort(grid[:, 0], kind="stable")
    neurons, grid = neurons[order], grid[order]
    gaps = np.diff(grid[:, 0])
    if (gaps == gaps[:1]).all():
        step = int(gaps[0]) if len(gaps) else 0
        return [_Run(neurons, int(grid[0, 0]), step, cells)] if len(grid) else []
    runs, start = [], 0
    while start < len(neurons):
        stop = start + 1
        while stop < len(neurons) and gaps[stop - 1] == gaps[start]:
            stop += 1
        step = int(gaps[start]) if stop > start + 1 else 0
        runs.append(_Run(neurons[start:stop], int(grid[start, 0]), step, cells))
        start = stop
    return runs


def _factor(shifts: Ids) -> tuple[tuple[int, int], ...] | None:
    """Return sizes and steps of the axes that make up a row of shifts."""
    if len(shifts) == 1:
        return ()
    step, size = int(shifts[1]), 2
    while size < len(shifts) and shifts[size] == size * step:
        size += 1
    if len(shifts) % size:
        return None
    outer = shifts[::size]
    rest = _factor(outer)
    full = outer[:, None] + np.arange(size) * step
    if rest is None or (full.ravel() != shifts).any():
        return None
    return (*rest, (size, step))
