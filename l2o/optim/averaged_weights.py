r"""Averages of the weights themselves, in which the noise of single steps cancels.

The average of a parameter, :math:`a`, remembers a tenth of the run so far:

.. math:: a \leftarrow a + \frac{w - a}{1 + t / 10}

after its step number :math:`t`, counted from 0. So it needs to know neither the length
of the run nor a rate.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .distributed import is_sharded

AVERAGE = "average"
"""Key of a parameter's averaged weights in its state, in float32 or wider."""
COUNT = "average_count"
"""Key of how many steps they hold."""
KEYS = (AVERAGE, COUNT)

_MEMORY = 0.1
"""Share of the run so far that an average remembers."""


def advance_average(
    param: Tensor, item: MutableMapping[str, Any], is_sound: Tensor | None
) -> None:
    """Let a parameter's average take in what it is after a step; start it if need be.

    Args:
        param: the parameter, whole or sharded.
        item: its state; written.
        is_sound: whether the step was taken; None says yes.
    """
    if AVERAGE not in item:
        wide = torch.promote_types(param.dtype, torch.float32)
        item[AVERAGE] = param.detach().to(wide, copy=True)
        item[COUNT] = torch.zeros((), dtype=torch.int64, device=param.device)
    average, weights = _local(item[AVERAGE]), _local(param.detach())
    share = 1 / (_MEMORY * item[COUNT].to(average.dtype) + 1)
    share = share if is_sound is None else share * is_sound
    average.lerp_(weights.to(average.dtype), share)
    item[COUNT] += 1 if is_sound is None else is_sound.to(torch.int64)


def averages_in(
    states: Mapping[Tensor, Mapping[str, Any]], params: Iterable[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Return the parameters that have an average, each with it."""
    return [(p, states[p][AVERAGE]) for p in params if AVERAGE in states.get(p, {})]


@contextmanager
def swapped_in(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Give parameters other values for a while; the old ones return bit for bit.

    Args:
        pairs: parameter and value.
    """
    kept = []
    try:
        for param, value in pairs:
            own = _local(param.detach())
            kept.append((own, own.clone()))
            own.copy_(_local(value))
        yield
    finally:
        for own, old in kept:
            own.copy_(old)


def average_template(param: Tensor) -> dict[str, Tensor]:
    """Return tensors like a parameter's average and its count, without values."""
    wide = torch.promote_types(param.dtype, torch.float32)
    count = torch.empty((), dtype=torch.int64, device=param.device)
    return {AVERAGE: torch.empty_like(param, dtype=wide), COUNT: count}


def _local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, sharing its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]
