"""Rules for operators that move or join entries."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation

from .calls import Call, Found
from .labels import Codes, Labelled, Labels, compact
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
    """Return the labels of tensors concatenated along an axis."""
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
    """Return the labels of all pieces, concatenated."""
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
            line = tracer.joins.vector(plane, sorted(axes_of(plane) - {axis}))
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
    widths = {piece.codes.width for piece in pieces if piece.codes is not None}
    codes = Codes(tuple(dense.shape), dense=compact(dense), width=max(widths))
    if len(widths) > 1:
        tracer.log.unplace(codes, "its entries are used out of order")
    return Labels(codes=codes, depends=True)


def move(tracer: Tracer, call: Call) -> Found:
    """Follow entries that change places."""
    seen = call.only_input()
    return None if seen is None else moved(seen, call.repeat_on)


def concatenate(tracer: Tracer, call: Call) -> Found:
    """Follow `cat`."""
    tensors = list(call.given["tensors"])
    rank = max(tensor.dim() for tensor in tensors)
    pieces = [call.store.see(tensor) for tensor in tensors]
    return joined(tracer, pieces, call.given["dim"] % rank)


def stack(tracer: Tracer, call: Call) -> Found:
    """Follow `stack`."""
    tensors = list(call.given["tensors"])
    axis = call.given["dim"] % (tensors[0].dim() + 1)
    pieces = [call.store.see(tensor.unsqueeze(axis)) for tensor in tensors]
    return joined(tracer, pieces, axis)


def turn(tracer: Tracer, call: Call) -> Found:
    """Follow `flip` and `roll`, which leave labels alone on other axes."""
    seen = call.only_input()
    if seen is None:
        return None
    lines = set(axes_from(call.given["dims"] or None, len(seen.shape)))
    if seen.codes is None and not any(axes_of(p) & lines for p in seen.planes):
        return seen.labels
    return moved(seen, call.repeat_on)


def pad(tracer: Tracer, call: Call) -> Found:
    """Follow padding by a constant."""
    seen = call.only_input()
    if seen is None:
        return None
    widths, rank = call.given["pad"], len(seen.shape)
    padded = {rank - 1 - i // 2 for i, size in enumerate(widths) if size}
    if seen.codes is None and not any(axes_of(p) & padded for p in seen.planes):
        return seen.labels
    return moved(seen, lambda values: call.func(values, widths))


def triangle(tracer: Tracer, call: Call) -> Found:
    """Follow `tril` and `triu` over axes without neurons."""
    seen = call.only_input()
    if seen is None:
        return None
    last = {len(seen.shape) - 1, len(seen.shape) - 2}
    return None if any(axes_of(p) & last for p in seen.planes) else seen.labels


def gather(tracer: Tracer, call: Call) -> Found:
    """Follow `gather` along an axis without neurons."""
    seen = call.only_input()
    if seen is None:
        return None
    axis = call.given["dim"] % len(seen.shape)
    for plane in seen.planes:
        if axis in axes_of(plane):
            return None
        tracer.admit(plane, call.see("index"))
    return seen.labels if seen.codes is None else moved(seen, call.repeat_on)


def index(tracer: Tracer, call: Call) -> Found:
    """Follow `tensor[index, ...]`, with index tensors."""
    seen = call.only_input()
    if seen is None:
        return None
    indexed, axis = set(), 0
    for item in call.given["indices"]:
        if item is None:
            axis += 1
            continue
        width = item.dim() if item.dtype in (torch.bool, torch.uint8) else 1
        indexed.update(range(axis, axis + width))
        axis += width
    for plane in seen.planes:
        if axes_of(plane) & indexed and len(indexed) > 1:
            return None
    return moved(seen, call.repeat_on)


def axes_from(dim: Any, rank: int) -> list[int]:
    """Return the axes that an argument `dim` means, none of them negative."""
    if dim is None or dim == []:
        return list(range(rank))
    return [axis % rank for axis in ([dim] if isinstance(dim, int) else dim)]
