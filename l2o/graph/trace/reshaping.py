"""Rules for operators that move, join, pool or reduce entries."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation

from .labels import Codes, Labelled, Labels, compact, varying
from .trace_log import axes_of
from .tracer import Tracer

_VALUE = Operation(name="value")


def moved(seen: Labelled, move: Callable[[Tensor], Tensor]) -> Labels:
    """Return the labels of entries that change places: the labels make the same move.

    Where the move leaves zeros, there is no neuron. The numbers travel as float64,
    which every operator takes and which is exact here.
    """
    planes = []
    for plane in seen.planes:
        label = _carried(plane, seen.shape, move)
        if bool((label >= 0).any()):
            planes.append(label)
    codes = seen.codes
    if codes is not None:
        full = move((codes.tensor() + 1).expand(seen.shape).double()).long() - 1
        codes = dataclasses.replace(
            codes, shape=tuple(full.shape), strides=(), offset=0, dense=compact(full)
        )
    return dataclasses.replace(seen.labels, planes=tuple(planes), codes=codes)


def _carried(
    plane: Tensor, shape: Sequence[int], move: Callable[[Tensor], Tensor]
) -> Tensor:
    return compact(move((plane + 1).expand(shape).double()).long() - 1)


def joined(tracer: Tracer, pieces: Sequence[Labelled], axis: int) -> Labels:
    """Return the labels of tensors put one behind the other along an axis."""
    pieces = [piece for piece in pieces if piece.value.dim() and piece.value.numel()]
    if all(piece.labels.is_plain for piece in pieces):
        depends = any(piece.labels.depends for piece in pieces)
        return Labels(depends=depends)
    if not any(piece.planes for piece in pieces):
        return _joined_entries(tracer, pieces, axis)
    pieces = [_adopt(tracer, pieces, piece, axis) for piece in pieces]
    planes = []
    for slots in _matched(pieces):
        lines = {
            line for plane in slots if plane is not None for line in axes_of(plane)
        }
        for piece, plane in zip(pieces, slots, strict=True):
            if plane is None and axis not in lines:
                for other in slots:
                    if other is not None:
                        tracer.admit(other, piece)
        known = [plane for plane in slots if plane is not None]
        if axis not in lines and all(torch.equal(known[0], plane) for plane in known):
            planes.append(known[0])
            continue
        label = _laid(pieces, slots, lines, axis)
        _tell_apart(tracer, label, pieces, axis)
        planes.append(compact(label))
    return Labels(planes=tuple(planes), depends=True)


def _matched(pieces: Sequence[Labelled]) -> list[list[Tensor | None]]:
    """Group the planes of all pieces by the axes on which they vary."""
    rows: list[list[Tensor | None]] = []
    for index, piece in enumerate(pieces):
        for plane in piece.planes:
            for row in rows:
                known = [other for other in row if other is not None]
                shares = any(axes_of(other) & axes_of(plane) for other in known)
                shares |= not axes_of(plane) or not axes_of(known[0])
                if row[index] is None and shares:
                    row[index] = plane
                    break
            else:
                rows.append([plane if i == index else None for i in range(len(pieces))])
    return rows


def _laid(
    pieces: Sequence[Labelled],
    slots: Sequence[Tensor | None],
    lines: set[int],
    axis: int,
) -> Tensor:
    """Return the labels of all pieces, one behind the other."""
    parts = []
    for piece, plane in zip(pieces, slots, strict=True):
        sizes = [
            size if line in lines or line == axis else 1
            for line, size in enumerate(piece.shape)
        ]
        empty = torch.full((1,) * len(sizes), -1)
        parts.append((empty if plane is None else plane).expand(sizes))
    return torch.cat(parts, axis)


def _tell_apart(
    tracer: Tracer, label: Tensor, pieces: Sequence[Labelled], axis: int
) -> None:
    """Neurons keep to the pieces they come from."""
    number = torch.cat(
        [torch.full((p.shape[axis],), i) for i, p in enumerate(pieces)]
    ).view([-1 if line == axis else 1 for line in range(label.dim())])
    number = number.expand(label.shape)
    marked = torch.where(label >= 0, label * len(pieces) + number, -1)
    pairs = torch.unique(marked[marked >= 0])
    rows = torch.full((len(pieces), len(pairs)), -1)
    rows[pairs % len(pieces), torch.arange(len(pairs))] = pairs // len(pieces)
    tracer.log.distinguish(rows, (0,))


def _adopt(
    tracer: Tracer, pieces: Sequence[Labelled], piece: Labelled, axis: int
) -> Labelled:
    """Give a parameter among activations (a class token) their neurons."""
    if piece.codes is None:
        return piece
    for other in pieces:
        for plane in other.planes:
            line = tracer.vector(plane, sorted(axes_of(plane) - {axis}))
            if line is None or axis in axes_of(plane) or not axes_of(plane):
                continue
            if axes_of(line) <= set(piece.codes.axes):
                kept = tracer.attach(line, piece.codes, _VALUE, scales=False)
                return Labelled(piece.value, Labels(planes=(kept,), depends=True))
    return tracer.promote(piece, axis)


def _joined_entries(tracer: Tracer, pieces: Sequence[Labelled], axis: int) -> Labels:
    """Return the labels of parameters put one behind the other."""
    parts = []
    for piece in pieces:
        if piece.codes is None:
            parts.append(torch.full(piece.shape, -1))
        else:
            parts.append(piece.codes.tensor().expand(piece.shape))
    if any(piece.codes is None or piece.codes.is_summary for piece in pieces):
        for piece in pieces:
            if piece.codes is not None:
                tracer.log.freeze_ends(piece.codes)
    dense = torch.cat(parts, axis)
    return Labels(codes=Codes(tuple(dense.shape), dense=compact(dense)), depends=True)


def reduced(
    tracer: Tracer, seen: Labelled, axes: Iterable[int], *, keeps: bool, is_mean: bool
) -> Labels:
    """Return the labels of a reduction over some axes.

    Args:
        tracer: the pass so far.
        seen: what is reduced.
        axes: the axes, not negative.
        keeps: whether they stay, of size one.
        is_mean: whether the order along the axes does not matter.
    """
    gone = sorted(axes)
    planes = []
    for plane in seen.planes:
        if axes_of(plane) & set(gone):
            if not is_mean:
                tracer.log.freeze(plane)
            elif tracer.bundle(plane, gone):
                left = sorted(axes_of(plane) - set(gone))
                merged = tracer.vector(plane, left, "residual")
                if merged is not None:
                    planes.append(merged if keeps else _without(merged, gone))
            else:
                tracer.mean(plane, gone)
        elif axes_of(plane) or len(gone) < plane.dim():
            planes.append(plane if keeps else _without(plane, gone))
    codes = seen.codes
    if codes is not None:
        small = codes.tensor()
        small = small.amin(gone, keepdim=True) if gone else small
        small = small if keeps else _without(small, gone)
        shape = [1 if a in gone else size for a, size in enumerate(seen.shape)]
        if not keeps:
            shape = [size for a, size in enumerate(seen.shape) if a not in gone]
        is_summary = codes.is_summary or bool(set(codes.axes) & set(gone))
        codes = Codes(tuple(shape), dense=small, is_summary=is_summary)
        if not is_mean:
            tracer.log.freeze_ends(codes)
    depends = seen.labels.depends or not seen.labels.is_plain
    return Labels(planes=tuple(planes), codes=codes, depends=depends)


def _without(plane: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        plane = plane.select(axis, 0)
    return plane


def along(tracer: Tracer, seen: Labelled, axis: int, *, is_symmetric: bool) -> Labels:
    """Return the labels of an operator along one axis that keeps the shape.

    A softmax is symmetric in the entries of the axis, a cumulative sum is not.
    """
    for plane in seen.planes:
        if axis in axes_of(plane):
            if is_symmetric and tracer.bundle(plane, (axis,)):
                tracer.vector(plane, sorted(axes_of(plane) - {axis}), "residual")
            elif is_symmetric:
                tracer.mean(plane, (axis,))
            else:
                tracer.log.freeze(plane)
    if seen.codes is not None and axis in seen.codes.axes and not is_symmetric:
        tracer.log.freeze_ends(seen.codes)
    depends = seen.labels.depends or not seen.labels.is_plain
    return Labels(planes=seen.planes, codes=seen.codes, depends=depends)


def local(tracer: Tracer, seen: Labelled, spatial: int) -> Labels:
    """Return the labels of pooling or resampling over the last axes."""
    if seen.codes is not None:
        tracer.lose(seen, "pooling of a parameter")
        return Labels(depends=True)
    rank, planes = seen.value.dim(), []
    for plane in seen.planes:
        if any(axis >= rank - spatial for axis in varying(plane)):
            channel = rank - spatial - 1
            line = tracer.vector(plane, range(channel + 1))
            if line is None or varying(line) != (channel,):
                tracer.log.freeze(plane)
                continue
            plane = line
        planes.append(plane)
    return Labels(planes=tuple(planes), depends=True)
