"""Which rule each operator follows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from l2o.graph.neural_graph import Operation

from . import layers
from .attention import attention
from .calls import bound, is_tensor, name_of, settings_of
from .contraction import product
from .labels import Labelled, Labels
from .pointwise import pointwise
from .shapes import shape_labels
from .tracer import Tracer

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
_DRAWS = frozenset(
    {"rand_like", "randn_like", "randint_like", "normal", "uniform", "exponential"}
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


def labels_of(
    tracer: Tracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Labels | tuple[Labels, ...] | None:
    """Return the labels of an operator's results, None if it has no rule.

    Called after the operator has run. One `Labels` stands for all results.
    """
    given = bound(func, args, kwargs)
    tensors = [x for x in pytree.tree_leaves((args, dict(kwargs))) if is_tensor(x)]
    seen = [tracer.store.see(tensor) for tensor in tensors]
    name = name_of(func)
    if name in _FACTORIES:
        return Labels()
    if name in _DRAWS:
        return Labels(noise=True)
    if all(item.labels.is_plain for item in seen):
        depends = any(item.labels.depends for item in seen)
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        is_random |= torch.Tag.pointwise in func.tags and any(
            item.labels.noise for item in seen
        )
        return Labels(depends=depends, noise=is_random and not depends)
    call = Operation(name=name, settings=settings_of(given))
    found = _layer(tracer, name, given, call)
    if found is None:
        found = shape_labels(tracer, func, name, given, args, kwargs)
    if found is None and (torch.Tag.pointwise in func.tags or name in _POINTWISE):
        rank = max(item.value.dim() for item in seen)
        return pointwise(tracer, call, seen, rank)
    return found


def _layer(
    tracer: Tracer, name: str, given: Mapping[str, Any], call: Operation
) -> Labels | tuple[Labels, ...] | None:
    """Return the labels of operators with weights, norms and attention."""

    def see(key: str) -> Labelled | None:
        value = given.get(key)
        return None if value is None else tracer.store.see(value)

    def need(key: str) -> Labelled:
        return tracer.store.see(given[key])

    match name:
        case "mm" | "bmm" | "addmm" | "baddbmm" | "mv" | "addmv" | "dot":
            return _matmul(tracer, name, given)
        case "convolution":
            data, spatial = need("input"), len(given["stride"])
            if data.value.dim() == spatial + 1:
                return None
            groups, flips = given["groups"], given["transposed"]
            bias = see("bias")
            return layers.convolution(
                tracer, data, need("weight"), bias, groups, flips, call
            )
        case "embedding":
            if need("weight").codes is None:
                return None
            index = need("indices")
            return layers.embedding(tracer, need("weight"), index, index.value.dim())
        case "_embedding_bag" | "_embedding_bag_forward_only":
            if need("weight").codes is None:
                return None
            return _first(layers.embedding(tracer, need("weight"), need("indices"), 1))
        case "embedding_renorm":
            return need("self").labels
        case "native_layer_norm" | "_fused_rms_norm":
            data = need("input")
            rank, size = data.value.dim(), len(given["normalized_shape"])
            axes = range(rank - size, rank)
            scale, shift = see("weight"), see("bias")
            return _first(layers.norm(tracer, data, axes, scale, shift, call))
        case "native_group_norm":
            data, scale, shift = need("input"), see("weight"), see("bias")
            groups = given["group"]
            return _first(layers.group_norm(tracer, data, groups, scale, shift, call))
        case _ if name in _BATCH_NORMS:
            data, scale, shift = need("input"), see("weight"), see("bias")
            return _first(layers.batch_norm(tracer, data, scale, shift, call))
        case _ if name in _ATTENTION:
            names = ("query", "key", "value", "attn_bias", "attn_mask")
            query, key, value, *bias = (see(item) for item in names)
            assert query is not None
            assert key is not None
            assert value is not None
            for extra in bias:
                if extra is not None:
                    tracer.forbid(extra, "it is added to attention scores")
            return _first(attention(tracer, query, key, value))
        case "native_dropout":
            return need("input").labels, Labels(noise=True)
        case "_weight_norm_interface":
            pair = [need("v"), need("g")]
            return _first(pointwise(tracer, call, pair, given["v"].dim()))
        case "glu":
            data, axis = need("self"), given["dim"] % given["self"].dim()
            halves = given["self"].chunk(2, axis)
            both = [tracer.store.see(half) for half in halves]
            return pointwise(tracer, Operation(name="mul"), both, data.value.dim())
        case _:
            return None


def _first(labels: Labels) -> tuple[Labels, ...]:
    """Return labels of several results of which only the first has neurons."""
    rest = Labels(depends=True)
    return labels, rest, rest, rest


def _matmul(tracer: Tracer, name: str, given: Mapping[str, Any]) -> Labels | None:
    """Return the labels of a matrix product with an optional addend."""
    left = given.get("mat1", given.get("batch1", given.get("mat", given["self"])))
    if name in ("mm", "bmm", "mv", "dot"):
        left = given["self"]
    keys = ("mat2", "batch2", "vec", "tensor")
    right = next(given[key] for key in keys if given.get(key) is not None)
    places = {1: (2,), 2: (1, 2), 3: (0, 1, 2)}
    first = tracer.store.see(left)
    second = tracer.store.see(right)
    if first.labels.is_plain and second.labels.is_plain:
        labels = Labels(depends=first.labels.depends or second.labels.depends)
    else:
        rows = first.placed((1, 1, 1), places[left.dim()])
        columns = second.placed(
            (1, 1, 1), (1,) if right.dim() == 1 else places[right.dim()]
        )
        call = Operation(name="linear")
        labels = product(tracer, rows, columns, call)
    gone = []
    if left.dim() < 3:
        gone.append(0)
    if left.dim() == 1:
        gone.append(1)
    if right.dim() == 1:
        gone.append(2)
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
    labels = Labels(planes=tuple(planes), codes=codes, depends=True)
    if name not in ("addmm", "baddbmm", "addmv"):
        return labels
    bias = tracer.store.see(given["self"])
    rank = 3 - len(gone)
    shape = [left.shape[0]] if name == "addmv" else [*left.shape[:-1], right.shape[-1]]
    result = Labelled(torch.empty(shape, device="meta"), labels)
    return pointwise(tracer, Operation(name="add"), [result, bias], rank)
