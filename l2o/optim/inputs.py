"""What a module call depends on, kept so that the call can be made once more."""

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a call."""


def autocast_of(kind: str) -> tuple[str, torch.dtype] | None:
    """Return the autocast that is on for a kind of device, None if there is none."""
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return kind, torch.get_autocast_dtype(kind)
    return None


def autocast(setting: tuple[str, torch.dtype] | None) -> Any:
    """Return a context with this autocast."""
    if setting is None:
        return contextlib.nullcontext()
    return torch.autocast(setting[0], dtype=setting[1])


def is_ordinary(inputs: Inputs) -> bool:
    """Whether a call computes on real tensors, and not symbolic or fake ones."""
    if maybe_current_level() is not None or torch._C._get_tracing_state() is not None:
        return False
    return not any(
        isinstance(leaf, FakeTensor | torch.fx.Proxy)
        for leaf in pytree.tree_leaves(inputs)
    )


_ATOMS = (
    *(bool, int, float, complex, str, bytes, type(None), type),
    *(torch.dtype, torch.device, torch.Size, nn.Module, torch.Generator),
)
"""Inputs that a second run cannot change, or that must stay themselves."""
_MOST_OBJECTS = 10_000
"""Objects with more parts than this are not copied."""


def copied(value: object) -> object:
    """Return a deep copy of an object that a module may write to.

    Tensors in it are detached and not copied, modules stay themselves, and so does
    what is large or cannot be copied.
    """
    if isinstance(value, _ATOMS):
        return value
    memo: dict[int, Any] = {}
    queue, known = [value], {id(value)}
    while queue:
        item = queue.pop()
        if isinstance(item, Tensor):
            memo[id(item)] = item.detach()
            continue
        if isinstance(item, _ATOMS):
            memo[id(item)] = item
            continue
        parts = [*vars(item).values()] if hasattr(item, "__dict__") else []
        if isinstance(item, Mapping):
            parts += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            parts += item
        for part in parts:
            if id(part) not in known:
                known.add(id(part))
                queue.append(part)
        if len(known) > _MOST_OBJECTS:
            return value
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        # Whatever a foreign class raises, its object is then used as it is.
        return value
