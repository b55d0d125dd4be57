"""Which rule the operators follow that move, join, pool or reduce entries."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from l2o.graph.neural_graph import Operation

from . import layers, reshaping
from .calls import is_tensor, settings_of
from .labels import Labelled, Labels
from .trace_log import axes_of
from .tracer import Tracer

_LOCAL = ("pool1d", "pool2d", "pool3d")
_MOVES = frozenset(
    {
        "repeat",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "im2col",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "native_channel_shuffle",
        "index_select",
        "expand_copy",
        "rot90",
        "_pack_padded_sequence",
        "unfold_copy",
        "diagonal_copy",
        "view_copy",
        "permute_copy",
    }
)
_ORDERED = frozenset({"argmax", "argmin", "median", "nanmedian", "mode", "kthvalue"})
_SOFTMAX = frozenset({"_softmax", "_log_softmax", "_safe_softmax"})
_SCANS = frozenset(
    {"cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "argsort", "topk"}
)
_SYMMETRIC = frozenset(
    {
        "sum",
        "mean",
        "var",
        "std",
        "amax",
        "amin",
        "prod",
        "norm",
        "linalg_vector_norm",
        "logsumexp",
        "any",
        "all",
        "var_mean",
        "std_mean",
        "nansum",
        "count_nonzero",
        "aminmax",
    }
)


def shape_labels(
    tracer: Tracer,
    func: Any,
    name: str,
    given: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Labels | tuple[Labels, ...] | None:
    """Return the labels of operators that move, join, pool or reduce."""
    if name in ("cat", "stack"):
        tensors = list(given["tensors"])
        rank = max(tensor.dim() for tensor in tensors)
        axis = given["dim"] % (rank + (name == "stack"))
        if name == "stack":
            tensors = [tensor.unsqueeze(axis) for tensor in tensors]
        pieces = [tracer.store.see(tensor) for tensor in tensors]
        return reshaping.joined(tracer, pieces, axis)
    data = given.get("self", given.get("input"))
    if not is_tensor(data):
        return None
    seen, rank = tracer.store.see(data), data.dim()
    call = Operation(name=name, settings=settings_of(given))
    others = [x for x in pytree.tree_leaves((args[1:], dict(kwargs))) if is_tensor(x)]
    if any(not tracer.store.see(other).labels.is_plain for other in others):
        return None

    def move(labels: Tensor) -> Tensor:
        rest = pytree.tree_map(lambda x: x.cpu() if is_tensor(x) else x, args[1:])
        result = func(labels, *rest, **kwargs)
        return result if is_tensor(result) else result[0]

    if name in _SYMMETRIC or name in _ORDERED or name in ("max", "min"):
        if others:
            return None
        axes = _axes(given.get("dim"), rank)
        is_mean = name in _SYMMETRIC or given.get("dim") is None
        is_mean &= name not in _ORDERED
        keeps = bool(given.get("keepdim", False))
        labels = reshaping.reduced(tracer, seen, axes, keeps=keeps, is_mean=is_mean)
        tracer.note_once(labels.planes, call)
        return labels
    if name in _SOFTMAX:
        axis = given["dim"] % max(rank, 1)
        return reshaping.along(tracer, seen, axis, is_symmetric=True)
    if name in ("flip", "roll"):
        key = "dims"
        lines = _axes(given.get(key) or None, rank)
        is_touched = any(axes_of(plane) & set(lines) for plane in seen.planes)
        if not is_touched and seen.codes is None:
            return seen.labels
        return reshaping.moved(seen, move)
    if name in _SCANS:
        axis = given.get("dim", -1)
        axis = (rank - 1 if axis is None else axis) % max(rank, 1)
        labels = reshaping.along(tracer, seen, axis, is_symmetric=False)
        if name.startswith("cum") or name == "logcumsumexp":
            return labels
        planes = tuple(p for p in labels.planes if axis not in axes_of(p))
        return Labels(planes=planes, depends=True)
    if name.endswith(_LOCAL) or name.startswith("upsample_"):
        spatial = int(next(c for c in reversed(name) if c.isdigit()))
        labels = reshaping.local(tracer, seen, spatial)
        tracer.note_once(labels.planes, call)
        return labels
    if name.startswith("max_pool") and name.endswith("_with_indices"):
        spatial = int(name[len("max_pool")])
        labels = reshaping.local(tracer, seen, spatial)
        tracer.note_once(labels.planes, call)
        return labels
    if name == "constant_pad_nd":
        padded = {rank - 1 - i // 2 for i, size in enumerate(given["pad"]) if size}
        if seen.codes is None and not any(axes_of(p) & padded for p in seen.planes):
            return seen.labels
        return reshaping.moved(seen, lambda x: func(x, given["pad"]))
    if name in ("tril", "triu"):
        if any(axes_of(plane) & {rank - 1, rank - 2} for plane in seen.planes):
            return None
        return seen.labels
    if name == "gather":
        axis = given["dim"] % rank
        index = tracer.store.see(given["index"])
        for plane in seen.planes:
            if axis in axes_of(plane):
                return None
            tracer.admit(plane, index)
        return seen.labels if seen.codes is None else reshaping.moved(seen, move)
    if name in ("index", "index_select") and _is_table(tracer, seen, name, given):
        index = given["index"] if name == "index_select" else given["indices"][0]
        looked = tracer.store.see(index)
        return layers.embedding(tracer, seen, looked, index.dim())
    if name in _MOVES:
        return reshaping.moved(seen, move)
    if name == "index":
        return _index(tracer, seen, given["indices"], move)
    return None


def _is_table(
    tracer: Tracer, seen: Labelled, name: str, given: Mapping[str, Any]
) -> bool:
    """Whether rows of a parameter are looked up by what the network was given."""
    if seen.codes is None or len(seen.shape) != 2 or seen.codes.is_summary:
        return False
    if name == "index_select":
        return given["dim"] == 0 and tracer.store.see(given["index"]).labels.depends
    first, *rest = given["indices"]
    if first is None or any(index is not None for index in rest):
        return False
    return first.dtype == torch.int64 and tracer.store.see(first).labels.depends


def _index(
    tracer: Tracer, seen: Labelled, indices: Sequence[Tensor | None], move: Any
) -> Labels | None:
    """Return the labels of `tensor[index, ...]`, with index tensors."""
    indexed, axis = set(), 0
    for index in indices:
        if index is None:
            axis += 1
            continue
        width = index.dim() if index.dtype in (torch.bool, torch.uint8) else 1
        indexed.update(range(axis, axis + width))
        axis += width
    for plane in seen.planes:
        if axes_of(plane) & indexed and len(indexed) > 1:
            return None
    return reshaping.moved(
        seen,
        lambda labels: torch.ops.aten.index(
            labels, [index if index is None else index.cpu() for index in indices]
        ),
    )


def _axes(dim: Any, rank: int) -> list[int]:
    if dim is None or dim == []:
        return list(range(rank))
    return [axis % rank for axis in ([dim] if isinstance(dim, int) else dim)]
