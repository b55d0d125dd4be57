"""Rules for convolutions, embeddings and norms."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation

from .contraction import Table, connect
from .marks import Codes, Marks, Seen
from .pointwise import pointwise
from .record import axes_of
from .wiring import Wiring


def convolution(
    wiring: Wiring,
    data: Seen,
    weight: Seen,
    bias: Seen | None,
    groups: int,
    is_transposed: bool,
    operation: Operation,
) -> Marks:
    """Return the marks of a convolution with a batch axis and channels on axis 1."""
    if weight.codes is None:
        return _fixed_filter(wiring, data, weight, groups, operation)
    if data.codes is not None:
        data = wiring.promote(data, 1)
    codes = weight.codes.affine()
    kept = _spatial_free(wiring, data)
    plane = _channels(wiring, data)
    if codes is None or codes.is_summary:
        wiring.record.spoil(weight.codes, "its entries are used out of order")
        wiring.record.freeze(plane)
        return Marks(depends=True)
    inner = data.shape[1] // groups
    outer = codes.shape[1] if is_transposed else codes.shape[0] // groups
    row, column = codes.strides[:2]
    part = inner if is_transposed else outer
    ends = (column, row) if is_transposed else (row, column)
    view = Codes(
        (groups, outer, inner, *codes.shape[2:]),
        (part * row, *ends, *codes.strides[2:]),
        codes.offset,
    )
    source = plane.reshape(-1).numpy()
    kind = "conv_transpose" if is_transposed else "conv"
    name = replace(operation, name=f"{kind}{data.value.dim() - 2}d")
    identity = (view.offset, view.strides, view.shape)
    target, is_new = wiring.targets(identity, view, groups * outer, [source], name)
    if is_new:
        _grouped(wiring, view, target.numpy(), source, name)
    shape = [1, groups * outer] + [1] * (data.value.dim() - 2)
    marks = Marks(planes=(target.view(shape), *kept), depends=True)
    if bias is None:
        return marks
    shift = bias.placed([1, *bias.shape, *shape[2:]], (1,))
    whole = Seen(torch.empty(shape, device="meta"), marks)
    return pointwise(wiring, Operation(name="add"), [whole, shift], len(shape))


def _grouped(
    wiring: Wiring, view: Codes, target: np.ndarray, source: np.ndarray, name: Operation
) -> None:
    """Record a grouped convolution: one block where its sources are one group."""
    parts, outer, inner = view.shape[:3]
    owners = wiring.record.group_of(source)
    is_single = len(np.unique(source)) == len(source) and (owners == owners[0]).all()
    if parts > 1 and is_single:
        wiring.use(view, target, source, name)
        return
    step, row, column = view.strides[:3]
    for part in range(parts):
        table = Table(
            base=view.offset + part * step,
            rows=np.arange(outer) * row,
            columns=np.arange(inner) * column,
            sizes=view.shape[3:],
            steps=view.strides[3:],
        )
        own = source[part * inner : (part + 1) * inner]
        connect(wiring, table, target[part * outer : (part + 1) * outer], own, name)


def _channels(wiring: Wiring, data: Seen) -> Tensor:
    """Return the neurons of axis 1; inputs where there are none."""
    found = [plane for plane in data.planes if 1 in axes_of(plane)]
    if data.shape[1] == 1:
        found = [plane for plane in data.planes if not axes_of(plane)][:1]
    for plane in found[1:]:
        wiring.record.freeze(plane)
    plane = wiring.vector(found[0], (1,)) if len(found) == 1 else None
    if plane is None:
        for lost in found:
            wiring.record.freeze(lost)
        name = "inputs" if not data.planes else "positions"
        return wiring.plain(data, (1,), name)
    holes = plane < 0
    if bool(holes.any()):
        plane = plane.clone()
        plane[holes] = wiring.record.add_group("inputs", int(holes.sum()), frozen=True)
    return plane


def _spatial_free(wiring: Wiring, data: Seen) -> list[Tensor]:
    """Return the planes of the batch axis; freeze those of spatial axes."""
    kept = []
    for plane in data.planes:
        lines = axes_of(plane)
        if 1 in lines or not lines:
            continue
        if lines == {0}:
            kept.append(plane)
        else:
            wiring.record.freeze(plane)
    return kept


def _fixed_filter(
    wiring: Wiring, data: Seen, weight: Seen, groups: int, operation: Operation
) -> Marks:
    """Return the marks of a convolution with a constant filter, such as a blur."""
    is_depthwise = groups == data.shape[1] == weight.shape[0] and not weight.planes
    if not is_depthwise:
        wiring.lose(data, f"{operation.name} by a computed filter")
        wiring.lose(weight, f"{operation.name} by a computed filter")
        return Marks(depends=True)
    kept = []
    for plane in data.planes:
        if axes_of(plane) <= {0, 1}:
            if 1 in axes_of(plane) and weight.varies_along((0,)):
                wiring.record.freeze(plane)
            kept.append(plane)
        else:
            wiring.record.freeze(plane)
    wiring.note_once(kept, operation)
    return Marks(planes=tuple(kept), depends=True)


def embedding(wiring: Wiring, weight: Seen, index: Seen, rank: int) -> Marks:
    """Return the marks of rows looked up in a table, `rank` axes before the last."""
    for plane in index.planes:
        wiring.record.freeze(plane)
    assert weight.codes is not None
    codes = weight.codes.affine()
    if codes is None or codes.is_summary:
        wiring.record.spoil(weight.codes, "its entries are used out of order")
        return Marks(depends=True)
    rows, width = codes.shape
    operation = Operation(name="embedding")
    view = Codes(
        (1, width, rows), (0, codes.strides[1], codes.strides[0]), codes.offset
    )
    identity = (view.offset, view.strides, view.shape)
    target, is_new = wiring.targets(identity, view, width, [], operation)
    if is_new:
        source = wiring.record.add_group(f"{wiring.last} rows", rows, frozen=True)
        wiring.use(view, target.numpy(), source.numpy(), operation)
    shape = [1] * rank + [width]
    return Marks(planes=(target.view(shape),), depends=True)


def norm(
    wiring: Wiring,
    data: Seen,
    axes: Sequence[int],
    scale: Seen | None,
    shift: Seen | None,
    operation: Operation,
) -> Marks:
    """Return the marks of a norm over `axes` with parameters along them."""
    if data.codes is not None and not data.planes:
        data = wiring.promote(data, axes[-1])
    for plane in data.planes:
        if axes_of(plane) & set(axes):
            wiring.mean(plane, axes)
    marks = Marks(planes=data.planes, depends=True)
    wiring.note_once(data.planes, operation)
    return affine(wiring, Seen(data.value, marks), axes, scale, shift)


def affine(
    wiring: Wiring,
    data: Seen,
    axes: Sequence[int],
    scale: Seen | None,
    shift: Seen | None,
) -> Marks:
    """Return the marks of `data * scale + shift`, both along `axes` of the data."""
    marks, rank = data.marks, data.value.dim()
    for name, factor in (("mul", scale), ("add", shift)):
        if factor is not None:
            sizes = [data.shape[a] if a in axes else 1 for a in range(rank)]
            laid = factor.placed(sizes, axes)
            here = Seen(data.value, marks)
            marks = pointwise(wiring, Operation(name=name), [here, laid], rank)
    return marks


def batch_norm(
    wiring: Wiring,
    data: Seen,
    scale: Seen | None,
    shift: Seen | None,
    operation: Operation,
) -> Marks:
    """Return the marks of a norm of each channel on its own.

    Running statistics follow their neurons, so they tell none apart.
    """
    if data.codes is not None and not data.planes:
        return affine(wiring, data, (1,), scale, shift)
    kept = []
    for plane in data.planes:
        line = wiring.vector(plane, (1,)) if axes_of(plane) else plane
        if line is not None:
            kept.append(line)
    wiring.note_once(kept, operation)
    marks = Marks(planes=tuple(kept), depends=True)
    return affine(wiring, Seen(data.value, marks), (1,), scale, shift)


def group_norm(
    wiring: Wiring,
    data: Seen,
    groups: int,
    scale: Seen | None,
    shift: Seen | None,
    operation: Operation,
) -> Marks:
    """Return the marks of a norm over runs of channels: neurons keep to their run."""
    size = data.shape[1] // groups
    for plane in data.planes:
        if 1 in axes_of(plane):
            runs = plane.reshape(plane.shape[0], groups, size, *plane.shape[2:])
            lines = {axis + (axis > 1) for axis in axes_of(plane) if axis < 2}
            wiring.record.colour(runs, lines)
        elif axes_of(plane):
            wiring.mean(plane, range(2, plane.dim()))
    wiring.note_once(data.planes, operation)
    return affine(wiring, data, (1,), scale, shift)
