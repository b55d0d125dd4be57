"""The rule for fused attention kernels."""

import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation

from .contraction import product
from .labels import Labelled, Labels, compact
from .tracer import Tracer

_CALL = Operation(name="attention")


def attention(
    tracer: Tracer, query: Labelled, key: Labelled, value: Labelled
) -> Labels:
    """Return the labels of `softmax(q @ k.T) @ v`, each `[..., token, unit]`."""
    lead = query.shape[:-2]
    repeats = query.shape[-3] // key.shape[-3] if lead else 1
    query, key, value = (
        _folded(tracer, item, 1 if item is query else repeats)
        for item in (query, key, value)
    )
    planes = tuple(plane.transpose(1, 2) for plane in key.planes)
    turned = Labelled(key.value.transpose(1, 2), Labels(planes=planes, depends=True))
    product(tracer, query, turned, _CALL)
    shape = *query.shape[:2], value.shape[1]
    scores = Labelled(torch.empty(shape, device="meta"), Labels(depends=True))
    found = product(tracer, scores, value, _CALL).planes
    heads, units = query.shape[0], value.shape[2]
    return Labels(
        planes=tuple(
            compact(p.expand(heads, 1, units).reshape(*lead, 1, units)) for p in found
        ),
        depends=True,
    )


def _folded(tracer: Tracer, seen: Labelled, repeats: int) -> Labelled:
    """Return `[..., head, token, unit]` as `[batch, token, unit]`, heads repeated."""
    lead = seen.shape[:-2]

    def fold(tensor: Tensor) -> Tensor:
        if repeats > 1:
            tensor = tensor.repeat_interleave(repeats, -3)
        return tensor.reshape(-1, *tensor.shape[-2:])

    if seen.codes is not None:
        tracer.lose(seen, "fused attention of a parameter")
    planes = [fold(plane.expand(*lead, *plane.shape[-2:])) for plane in seen.planes]
    return Labelled(fold(seen.value), Labels(planes=tuple(planes), depends=True))
