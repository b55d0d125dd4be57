"""Reductions and products of many tensors, with few launches on an accelerator.

There, in plain eager mode, one operation takes a list of tensors. Elsewhere they are
taken one by one: autograd, `torch.func` and the compiler know no operations on lists,
and on a CPU a loop costs the same.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.nets.fast_ops import in_plain_eager

_ATEN = torch.ops.aten
"""Where operations on lists of tensors are, each named with its signature."""

_SMALL = 2**15
"""Tensors of at most this many entries are scaled together."""
_FEWEST_JOINED = 6
"""With fewer small tensors, one launch for each is cheaper."""

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their number of bytes."""


def uses_lists(tensors: Sequence[Tensor]) -> bool:
    """Return whether one operation takes all of these tensors."""
    return in_plain_eager() and all(x.device.type != "cpu" for x in tensors)


def peaks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the largest magnitude in each tensor, each `[]`; NaN where one is."""
    if uses_lists(tensors):
        return _ATEN._foreach_norm.Scalar(tensors, float("inf"))
    # Twenty times as fast as the infinity norm on a CPU, and NaN propagates alike.
    return [torch.maximum(-x.amin(), x.amax()) for x in tensors]


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the root of the sum of squares of each tensor, each `[]`."""
    if uses_lists(tensors):
        return _ATEN._foreach_norm.Scalar(tensors, 2)
    return [torch.linalg.vector_norm(x) for x in tensors]


def sums(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sum of each tensor without negative entries, each `[]`."""
    kinds = [torch.promote_types(x.dtype, torch.float32) for x in tensors]
    if uses_lists(tensors):
        widest = torch.float64 if torch.float64 in kinds else torch.float32
        return _ATEN._foreach_norm.Scalar(tensors, 1, dtype=widest)
    return [x.sum(dtype=own) for x, own in zip(tensors, kinds, strict=True)]


def joined(*groups: Sequence[Tensor]) -> list[Tensor]:
    """Return groups of numbers, each as one tensor, in the widest of their types."""
    values = [value for group in groups for value in group]
    kinds = {value.dtype for value in values}
    if len(kinds) > 1:
        widest = torch.float32
        for kind in kinds:
            widest = torch.promote_types(widest, kind)
        values = [value.to(widest) for value in values]
    return list(torch.stack(values).split([len(group) for group in groups]))


def scaled(tensors: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
    """Return each tensor times its factor of `[tensor]`."""
    owned = list(zip(tensors, factors.unbind(), strict=True))
    small = [place for place, x in enumerate(tensors) if x.numel() <= _SMALL]
    if len(small) < _FEWEST_JOINED or not uses_lists(tensors):
        return [x * own for x, own in owned]
    parts = [tensors[place] for place in small]
    sizes = [x.numel() for x in parts]
    owners = _owners(tuple(small), tuple(sizes), factors.device)
    spread = factors.index_select(0, owners)
    joined = torch.cat([x.reshape(-1) for x in parts]).mul_(spread)
    found = dict(zip(small, joined.split(sizes), strict=True))
    return [
        found[place].view(x.shape) if place in found else x * own
        for place, (x, own) in enumerate(owned)
    ]


@functools.lru_cache(maxsize=32)
def _owners(
    places: tuple[int, ...], sizes: tuple[int, ...], device: torch.device
) -> Tensor:
    """Return, for each entry of some tensors one after another, its tensor's place.

    Args:
        places: of the tensors.
        sizes: numbers of entries.
        device: of the result.
    """
    counts = torch.tensor(sizes, device="cpu")
    numbers = torch.tensor(places, dtype=torch.int32, device="cpu")
    return numbers.repeat_interleave(counts).to(device)


def zeros_unless(condition: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors, or zeros if `condition` does not hold.

    Args:
        condition: `[]`, a truth value.
        tensors: ours, which may be written over.
    """
    if not uses_lists(tensors):
        return [torch.where(condition, x, 0.0) for x in tensors]
    for size in {x.element_size() for x in tensors}:
        bits = [x.view(_BITS[size]) for x in tensors if x.element_size() == size]
        _ATEN._foreach_mul_.Tensor(bits, condition.to(_BITS[size]))  # NaN to 0, too
    return list(tensors)


def add_lists(sums: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Add to each of the tensors in `sums` its value; only where `uses_lists`."""
    _ATEN._foreach_add_.List(sums, values)
