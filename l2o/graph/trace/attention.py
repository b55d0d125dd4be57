"""The rule for fused attention kernels."""

import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation

from .calls import Call, Found, first_of
from .contraction import product
from .labels import Labelled, Labels, compact
from .tracer import Tracer

_CALL = Operation(name="attention")


def attention(tracer: Tracer, call: Call) -> Found:
    """Follow `softmax(q @ k.T + bias) @ v`, each `[..., token, unit]`."""
    for extra in (call.find("attn_bias"), call.find("attn_mask")):
        if extra is not None:
            tracer.forbid(extra, "it is added to attention scores")
    query, key, value = call.see("query"), call.see("key"), call.see("value")
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
    shape = *lead, 1, units
    planes = tuple(compact(p.expand(heads, 1, units).reshape(shape)) for p in found)
    return first_of(Labels(planes=planes, depends=True))


def _folded(tracer: Tracer, seen: Labelled, repeats: int) -> Labelled:
    """Return `[..., head, token, unit]` as `[batch, token, unit]`; repeat heads."""
    lead = seen.shape[:-2]

    def fold(tensor: Tensor) -> Tensor:
        if repeats > 1:
            tensor = tensor.repeat_interleave(repeats, -3)
        return tensor.reshape(-1, *tensor.shape[-2:])

    if seen.codes is not None:
        tracer.lose(seen, "fused attention of a parameter")
    planes = [fold(plane.expand(*lead, *plane.shape[-2:])) for plane in seen.planes]
    return Labelled(fold(seen.value), Labels(planes=tuple(planes), depends=True))
