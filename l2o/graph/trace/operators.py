"""Which rule each operator follows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from l2o.graph.neural_graph import Operation

from . import layers, reshaping
from .attention import attention
from .contraction import product
from .labels import Marks, Seen
from .pointwise import pointwise
from .record import axes_of
from .wiring import Wiring

_FACTORIES = frozenset(
    {
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty_strided",
        "empty_strided",
    }
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
_ORDERED = frozenset({"argmax", "argmin", "median", "nanmedian", "mode", "kthvalue"})
_SOFTMAX = frozenset({"_softmax", "_log_softmax", "_safe_softmax"})
_SCANS = frozenset(
    {"cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "argsort", "topk"}
)
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
_BATCH_NORMS = frozenset(
    {
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
        "miopen_batch_norm",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
        "batch_norm_with_update",
    }
)
_ATTENTION = frozenset(
    {
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_attention_math",
    }
)
_POINTWISE = frozenset(
    {
        "_prelu_kernel",
        "prelu",
        "rrelu_with_noise",
        "hardswish",
        "hardsigmoid",
        "log_sigmoid_forward",
        "_to_copy",
        "copy",
        "fill",
        "zero",
        "masked_fill",
        "remainder",
        "fmod",
        "lift_fresh_copy",
        "erf",
        "floor_divide",
        "isin",
    }
)
_LOCAL = ("pool1d", "pool2d", "pool3d")


def marks_of(
    wiring: Wiring, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Marks | tuple[Marks, ...] | None:
    """Return the marks of an operator's results, None if it has no rule.

    Called after the operator has run. One `Marks` stands for all results.
    """
    given = _bound(func, args, kwargs)
    tensors = [x for x in pytree.tree_leaves((args, dict(kwargs))) if _is_tensor(x)]
    seen = [wiring.ledger.see(tensor) for tensor in tensors]
    name = _name(func)
    if name in _FACTORIES:
        return Marks()
    if all(item.marks.is_plain for item in seen):
        depends = any(item.marks.depends for item in seen)
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        is_random |= torch.Tag.pointwise in func.tags and any(
            item.marks.noise for item in seen
        )
        return Marks(depends=depends, noise=is_random and not depends)
    call = Operation(name=name, settings=_settings(given))
    found = _layer(wiring, name, given, call)
    if found is None:
        found = _shape(wiring, func, name, given, args, kwargs)
    if found is None and (torch.Tag.pointwise in func.tags or name in _POINTWISE):
        rank = max(item.value.dim() for item in seen)
        return pointwise(wiring, call, seen, rank)
    return found


def _layer(
    wiring: Wiring, name: str, given: Mapping[str, Any], call: Operation
) -> Marks | tuple[Marks, ...] | None:
    """Return the marks of operators with weights, norms and attention."""

    def see(key: str) -> Seen | None:
        value = given.get(key)
        return None if value is None else wiring.ledger.see(value)

    def need(key: str) -> Seen:
        return wiring.ledger.see(given[key])

    match name:
        case "mm" | "bmm" | "addmm" | "baddbmm" | "mv" | "addmv" | "dot":
            return _matmul(wiring, name, given)
        case "convolution":
            data, spatial = need("input"), len(given["stride"])
            if data.value.dim() == spatial + 1:
                return None
            groups, flips = given["groups"], given["transposed"]
            bias = see("bias")
            return layers.convolution(
                wiring, data, need("weight"), bias, groups, flips, call
            )
        case "embedding":
            if need("weight").codes is None:
                return None
            return layers.embedding(wiring, need("weight"), need("indices"))
        case "native_layer_norm" | "_fused_rms_norm":
            data = need("input")
            rank, size = data.value.dim(), len(given["normalized_shape"])
            axes = range(rank - size, rank)
            scale, shift = see("weight"), see("bias")
            return _first(layers.norm(wiring, data, axes, scale, shift, call))
        case "native_group_norm":
            data, scale, shift = need("input"), see("weight"), see("bias")
            groups = given["group"]
            return _first(layers.group_norm(wiring, data, groups, scale, shift, call))
        case _ if name in _BATCH_NORMS:
            data, scale, shift = need("input"), see("weight"), see("bias")
            return _first(layers.batch_norm(wiring, data, scale, shift, call))
        case _ if name in _ATTENTION:
            names = ("query", "key", "value", "attn_bias", "attn_mask")
            query, key, value, *bias = (see(item) for item in names)
            assert query is not None
            assert key is not None
            assert value is not None
            for extra in bias:
                if extra is not None:
                    wiring.forbid(extra, "it is added to attention scores")
            return _first(attention(wiring, query, key, value))
        case "native_dropout":
            return need("input").marks, Marks(noise=True)
        case "_weight_norm_interface":
            pair = [need("v"), need("g")]
            return _first(pointwise(wiring, call, pair, given["v"].dim()))
        case "glu":
            data, axis = need("self"), given["dim"] % given["self"].dim()
            halves = given["self"].chunk(2, axis)
            both = [wiring.ledger.see(half) for half in halves]
            return pointwise(wiring, Operation(name="mul"), both, data.value.dim())
        case _:
            return None


def _first(marks: Marks) -> tuple[Marks, ...]:
    """Return marks of several results of which only the first has neurons."""
    rest = Marks(depends=True)
    return marks, rest, rest, rest


def _matmul(wiring: Wiring, name: str, given: Mapping[str, Any]) -> Marks | None:
    """Return the marks of a matrix product with an optional addend."""
    left = given.get("mat1", given.get("batch1", given.get("mat", given["self"])))
    if name in ("mm", "bmm", "mv", "dot"):
        left = given["self"]
    keys = ("mat2", "batch2", "vec", "tensor")
    right = next(given[key] for key in keys if given.get(key) is not None)
    places = {1: (2,), 2: (1, 2), 3: (0, 1, 2)}
    first = wiring.ledger.see(left)
    second = wiring.ledger.see(right)
    if first.marks.is_plain and second.marks.is_plain:
        marks = Marks(depends=first.marks.depends or second.marks.depends)
    else:
        rows = first.placed((1, 1, 1), places[left.dim()])
        columns = second.placed(
            (1, 1, 1), (1,) if right.dim() == 1 else places[right.dim()]
        )
        call = Operation(name="linear")
        marks = product(wiring, rows, columns, call)
    gone = []
    if left.dim() < 3:
        gone.append(0)
    if left.dim() == 1:
        gone.append(1)
    if right.dim() == 1:
        gone.append(2)
    planes = []
    for plane in marks.planes:
        for axis in reversed(gone):
            plane = plane.select(axis, 0)
        planes.append(plane)
    codes = None
    if marks.codes is not None:  # a product of two parameters
        shape = [*left.shape[:-1], *right.shape[right.dim() - 1 :][: right.dim() > 1]]
        zeros = (0,) * len(shape)
        codes = replace(marks.codes, shape=tuple(shape), strides=zeros)
    marks = Marks(planes=tuple(planes), codes=codes, depends=True)
    if name not in ("addmm", "baddbmm", "addmv"):
        return marks
    bias = wiring.ledger.see(given["self"])
    rank = 3 - len(gone)
    shape = [left.shape[0]] if name == "addmv" else [*left.shape[:-1], right.shape[-1]]
    result = Seen(torch.empty(shape, device="meta"), marks)
    return pointwise(wiring, Operation(name="add"), [result, bias], rank)


def _shape(
    wiring: Wiring,
    func: Any,
    name: str,
    given: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Marks | tuple[Marks, ...] | None:
    """Return the marks of operators that move, join, pool or reduce."""
    if name in ("cat", "stack"):
        tensors = list(given["tensors"])
        rank = max(tensor.dim() for tensor in tensors)
        axis = given["dim"] % (rank + (name == "stack"))
        if name == "stack":
            tensors = [tensor.unsqueeze(axis) for tensor in tensors]
        pieces = [wiring.ledger.see(tensor) for tensor in tensors]
        return reshaping.joined(wiring, pieces, axis)
    data = given.get("self", given.get("input"))
    if not _is_tensor(data):
        return None
    seen, rank = wiring.ledger.see(data), data.dim()
    others = [x for x in pytree.tree_leaves((args[1:], dict(kwargs))) if _is_tensor(x)]
    if any(not wiring.ledger.see(other).marks.is_plain for other in others):
        return None

    def move(labels: Tensor) -> Tensor:
        rest = pytree.tree_map(lambda x: x.cpu() if _is_tensor(x) else x, args[1:])
        result = func(labels, *rest, **kwargs)
        return result if _is_tensor(result) else result[0]

    if name in _SYMMETRIC or name in _ORDERED or name in ("max", "min"):
        if others:
            return None
        axes = _axes(given.get("dim"), rank)
        is_mean = name in _SYMMETRIC or given.get("dim") is None
        is_mean &= name not in _ORDERED
        keeps = bool(given.get("keepdim", False))
        marks = reshaping.reduced(wiring, seen, axes, keeps=keeps, is_mean=is_mean)
        wiring.note_once(marks.planes, Operation(name=name, settings=_settings(given)))
        return marks
    if name in _SOFTMAX:
        axis = given["dim"] % max(rank, 1)
        return reshaping.along(wiring, seen, axis, is_symmetric=True)
    if name in ("flip", "roll"):
        key = "dims"
        lines = _axes(given.get(key) or None, rank)
        is_touched = any(axes_of(plane) & set(lines) for plane in seen.planes)
        if not is_touched and seen.codes is None:
            return seen.marks
        return reshaping.moved(seen, move)
    if name in _SCANS:
        axis = given.get("dim", -1)
        axis = (rank - 1 if axis is None else axis) % max(rank, 1)
        return reshaping.along(wiring, seen, axis, is_symmetric=False)
    if name.endswith(_LOCAL) or name.startswith("upsample_"):
        spatial = int(next(c for c in reversed(name) if c.isdigit()))
        marks = reshaping.local(wiring, seen, spatial)
        wiring.note_once(marks.planes, Operation(name=name, settings=_settings(given)))
        return marks
    if name.startswith("max_pool") and name.endswith("_with_indices"):
        spatial = int(name[len("max_pool")])
        marks = reshaping.local(wiring, seen, spatial)
        wiring.note_once(marks.planes, Operation(name=name, settings=_settings(given)))
        return marks
    if name == "constant_pad_nd":
        padded = {rank - 1 - i // 2 for i, size in enumerate(given["pad"]) if size}
        if seen.codes is None and not any(axes_of(p) & padded for p in seen.planes):
            return seen.marks
        return reshaping.moved(seen, lambda x: func(x, given["pad"]))
    if name in ("tril", "triu"):
        if any(axes_of(plane) & {rank - 1, rank - 2} for plane in seen.planes):
            return None
        return seen.marks
    if name in _MOVES:
        return reshaping.moved(seen, move)
    if name == "gather":
        axis = given["dim"] % rank
        index = wiring.ledger.see(given["index"])
        for plane in seen.planes:
            if axis in axes_of(plane):
                return None
            wiring.admit(plane, index)
        return seen.marks if seen.codes is None else reshaping.moved(seen, move)
    if name == "index":
        return _index(wiring, seen, given["indices"], move)
    return None


def _index(
    wiring: Wiring, seen: Seen, indices: Sequence[Tensor | None], move: Any
) -> Marks | None:
    """Return the marks of `tensor[index, ...]`, with index tensors."""
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


def _name(func: Any) -> str:
    return func.overloadpacket.__name__.removesuffix("_")


def _bound(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by name."""
    given = {}
    for index, argument in enumerate(func._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        given[argument.name] = (
            args[index] if index < len(args) else kwargs.get(argument.name, default)
        )
    return given


def _settings(given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the arguments that are plain numbers, flags, words or lists of them."""
    kept = []
    for key, value in given.items():
        value = tuple(value) if isinstance(value, list) else value
        parts = value if isinstance(value, tuple) else (value,)
        if all(isinstance(part, bool | int | float | str) for part in parts):
            kept.append((key, value))
    return tuple(kept)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
