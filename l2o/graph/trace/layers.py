"""Rules for convolutions, embeddings and norms."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation

from . import reshaping
from .calls import Call, Found, first_of, is_tensor
from .contraction import MatrixCodes, connect
from .labels import Codes, Labelled, Labels
from .pointwise import pointwise
from .trace_log import axes_of
from .tracer import Tracer


def convolution(tracer: Tracer, call: Call) -> Found:
    """Follow a convolution with a batch axis, channels on axis 1."""
    data, weight, bias = call.see("input"), call.see("weight"), call.find("bias")
    groups, is_transposed = call.given["groups"], call.given["transposed"]
    operation = call.operation
    if data.value.dim() == len(call.given["stride"]) + 1:
        return None
    if weight.codes is None:
        return _fixed_filter(tracer, data, weight, groups, operation)
    if data.codes is not None:
        data = tracer.promote(data, 1)
    codes = weight.codes.affine()
    kept = _spatial_free(tracer, data)
    reader = codes and (codes.offset, codes.shape, codes.strides)
    plane = _channels(tracer, data, ("convolution", reader))
    if codes is None or codes.is_summary or codes.width > 1:
        tracer.log.unplace(weight.codes, "its entries are used out of order")
        tracer.log.freeze(plane)
        return Labels(depends=True)
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
    target, is_new = tracer.targets(identity, view, groups * outer, [source], name)
    if is_new:
        _grouped(tracer, view, target.numpy(), source, name)
    shape = [1, groups * outer] + [1] * (data.value.dim() - 2)
    labels = Labels(planes=(target.view(shape), *kept), depends=True)
    if bias is None:
        return labels
    shift = bias.placed([1, *bias.shape, *shape[2:]], (1,))
    whole = Labelled(torch.empty(shape, device="meta"), labels)
    return pointwise(tracer, Operation(name="add"), [whole, shift], len(shape))


def _grouped(
    tracer: Tracer, view: Codes, target: np.ndarray, source: np.ndarray, name: Operation
) -> None:
    """Record a grouped convolution: one block where its sources are one group."""
    parts, outer, inner = view.shape[:3]
    owners = tracer.log.group_of(source)
    is_single = len(np.unique(source)) == len(source) and (owners == owners[0]).all()
    if parts > 1 and is_single:
        tracer.use(view, target, source, name)
        return
    step, row, column = view.strides[:3]
    for part in range(parts):
        table = MatrixCodes(
            base=view.offset + part * step,
            rows=np.arange(outer) * row,
            columns=np.arange(inner) * column,
            sizes=view.shape[3:],
            steps=view.strides[3:],
        )
        own = source[part * inner : (part + 1) * inner]
        connect(tracer, table, target[part * outer : (part + 1) * outer], own, name)


def _channels(tracer: Tracer, data: Labelled, reader: object) -> Tensor:
    """Return the neurons of axis 1; inputs where there are none."""
    found = [plane for plane in data.planes if 1 in axes_of(plane)]
    if data.shape[1] == 1 or not data.value.stride(1):  # one, perhaps repeated
        found = found or [plane for plane in data.planes if not axes_of(plane)][:1]
    for plane in found[1:]:
        tracer.log.freeze(plane)
    plane = tracer.joins.vector(found[0], (1,)) if len(found) == 1 else None
    if plane is None:
        for lost in found:
            tracer.log.freeze(lost)
        name = "inputs" if not data.planes else "positions"
        plane = tracer.plain(data, (1,), name, reader)
    holes = plane < 0
    if bool(holes.any()):
        plane = plane.clone()
        plane[holes] = tracer.log.add_group("inputs", int(holes.sum()), frozen=True)
    return plane.expand([data.shape[1] if a == 1 else 1 for a in range(plane.dim())])


def _spatial_free(tracer: Tracer, data: Labelled) -> list[Tensor]:
    """Return the planes of the batch axis; freeze those of spatial axes."""
    kept = []
    for plane in data.planes:
        lines = axes_of(plane)
        if 1 in lines or not lines:
            continue
        if lines == {0}:
            kept.append(plane)
        else:
            tracer.log.freeze(plane)
    return kept


def _fixed_filter(
    tracer: Tracer, data: Labelled, weight: Labelled, groups: int, operation: Operation
) -> Labels:
    """Return the labels of a convolution with a constant filter, such as a blur."""
    is_depthwise = groups == data.shape[1] == weight.shape[0] and not weight.planes
    if not is_depthwise:
        tracer.lose(data, f"{operation.name} by a computed filter")
        tracer.lose(weight, f"{operation.name} by a computed filter")
        return Labels(depends=True)
    kept = []
    for plane in data.planes:
        if axes_of(plane) <= {0, 1}:
            if 1 in axes_of(plane) and weight.varies_along((0,)):
                tracer.log.freeze(plane)
            kept.append(plane)
        else:
            tracer.log.freeze(plane)
    tracer.note_once(kept, operation)
    return Labels(planes=tuple(kept), depends=True)


def embedding(tracer: Tracer, call: Call) -> Found:
    """Follow rows that are looked up in a table."""
    weight, indices = call.see("weight"), call.see("indices")
    if weight.codes is None:
        return None
    return _looked_up(tracer, weight, indices, len(indices.shape))


def embedding_bag(tracer: Tracer, call: Call) -> Found:
    """Follow sums of rows that are looked up in a table."""
    weight = call.see("weight")
    if weight.codes is None:
        return None
    return first_of(_looked_up(tracer, weight, call.see("indices"), 1))


def index(tracer: Tracer, call: Call) -> Found:
    """Follow `table[index]` as an embedding, and other indexing as a move."""
    seen = call.only_input()
    if seen is None:
        return None
    rows, *rest = call.given["indices"]
    if _is_table(seen) and is_tensor(rows) and all(item is None for item in rest):
        looked_up = call.store.see(rows)
        if rows.dtype == torch.int64 and looked_up.labels.depends:
            return _looked_up(tracer, seen, looked_up, rows.dim())
    return reshaping.index(tracer, call)


def index_select(tracer: Tracer, call: Call) -> Found:
    """Follow rows selected from a table as an embedding, and others as a move."""
    seen, rows = call.only_input(), call.see("index")
    if seen is None:
        return None
    if _is_table(seen) and call.given["dim"] == 0 and rows.labels.depends:
        return _looked_up(tracer, seen, rows, rows.value.dim())
    return reshaping.move(tracer, call)


def _is_table(seen: Labelled) -> bool:
    """Whether a tensor is a matrix of parameter entries."""
    return seen.codes is not None and len(seen.shape) == 2 and not seen.codes.is_summary


def _looked_up(tracer: Tracer, weight: Labelled, index: Labelled, rank: int) -> Labels:
    """Return the labels of rows looked up in a table, `rank` axes before the last."""
    for plane in index.planes:
        tracer.log.freeze(plane)
    assert weight.codes is not None
    codes = weight.codes.affine()
    if codes is None or codes.is_summary or codes.width > 1:
        tracer.log.unplace(weight.codes, "its entries are used out of order")
        return Labels(depends=True)
    rows, width = codes.shape
    operation = Operation(name="embedding")
    view = Codes(
        (1, width, rows), (0, codes.strides[1], codes.strides[0]), codes.offset
    )
    identity = (view.offset, view.strides, view.shape)
    target, is_new = tracer.targets(identity, view, width, [], operation)
    if is_new:
        source = tracer.log.add_group(f"{tracer.last} rows", rows, frozen=True)
        tracer.use(view, target.numpy(), source.numpy(), operation)
    shape = [1] * rank + [width]
    return Labels(planes=(target.view(shape),), depends=True)


def norm(tracer: Tracer, call: Call) -> Found:
    """Follow a norm over the last axes with parameters along them."""
    data, rank = call.see("input"), call.see("input").value.dim()
    axes = range(rank - len(call.given["normalized_shape"]), rank)
    if data.codes is not None and not data.planes:
        data = tracer.promote(data, axes[-1])
    for plane in data.planes:
        if axes_of(plane) & set(axes):
            tracer.mean(plane, axes)
    labels = Labels(planes=data.planes, depends=True)
    tracer.note_once(data.planes, call.operation)
    return first_of(_affine(tracer, call, Labelled(data.value, labels), axes))


def _affine(tracer: Tracer, call: Call, data: Labelled, axes: Sequence[int]) -> Labels:
    """Return the labels of `data * weight + bias`, both along `axes` of the data."""
    labels, rank = data.labels, data.value.dim()
    pairs = ("mul", call.find("weight")), ("add", call.find("bias"))
    for name, factor in pairs:
        if factor is not None:
            sizes = [data.shape[a] if a in axes else 1 for a in range(rank)]
            laid = factor.placed(sizes, axes)
            here = Labelled(data.value, labels)
            labels = pointwise(tracer, Operation(name=name), [here, laid], rank)
    return labels


def batch_norm(tracer: Tracer, call: Call) -> Found:
    """Follow a norm of each channel on its own.

    Running statistics follow their neurons, so they tell none apart.
    """
    data = call.see("input")
    if data.codes is not None and not data.planes:
        return first_of(_affine(tracer, call, data, (1,)))
    kept = []
    for plane in data.planes:
        line = tracer.joins.vector(plane, (1,)) if axes_of(plane) else plane
        if line is not None:
            kept.append(line)
    tracer.note_once(kept, call.operation)
    labels = Labels(planes=tuple(kept), depends=True)
    return first_of(_affine(tracer, call, Labelled(data.value, labels), (1,)))


def group_norm(tracer: Tracer, call: Call) -> Found:
    """Follow a norm over runs of channels: neurons keep to their run."""
    data, groups = call.see("input"), call.given["group"]
    size = data.shape[1] // groups
    for plane in data.planes:
        if 1 in axes_of(plane):
            runs = plane.reshape(plane.shape[0], groups, size, *plane.shape[2:])
            lines = {axis + (axis > 1) for axis in axes_of(plane) if axis < 2}
            tracer.log.distinguish(runs, lines)
        elif axes_of(plane):
            tracer.mean(plane, range(2, plane.dim()))
    tracer.note_once(data.planes, call.operation)
    return first_of(_affine(tracer, call, data, (1,)))


def dropout(tracer: Tracer, call: Call) -> Found:
    """Follow fused dropout, which also returns its mask."""
    return call.see("input").labels, Labels(noise=True)


def renormalised(tracer: Tracer, call: Call) -> Found:
    """Follow a table whose rows are cut to a length in place."""
    return call.see("self").labels


def fake_quantised(tracer: Tracer, call: Call) -> Found:
    """Follow rounding as in quantised inference.

    The scales are statistics of the tensor, for all of it or for each of its rows, so
    they follow its entries as running statistics follow their neurons.
    """
    for name in ("scale", "zero_point"):
        value = call.given.get(name)
        if is_tensor(value):
            tracer.forbid(call.store.see(value), "it scales all entries of a tensor")
    return call.see("self").labels
