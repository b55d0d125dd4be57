"""The hooks of a module during a run that nobody asked for."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module


@contextlib.contextmanager
def quiet_hooks(model: nn.Module) -> Iterator[None]:
    """Run a model without the hooks that only observe it.

    Hooks after the forward pass, hooks of the backward pass and global hooks are off,
    but for those of torch itself. Hooks before the forward pass stay, since they may
    compute weights (weight normalisation, an equalised learning rate); the lists,
    dictionaries, sets and attributes that they refer to are restored afterwards.

    Args:
        model: the network; its submodules are included.
    """
    observers: list[dict[int, Any]] = [
        torch_module._global_forward_pre_hooks,
        torch_module._global_forward_hooks,
        torch_module._global_backward_pre_hooks,
        torch_module._global_backward_hooks,
    ]
    hooks: list[Callable[..., Any]] = []
    for module in model.modules():
        observers += [
            module._forward_hooks,
            module._backward_pre_hooks,
            module._backward_hooks,
        ]
        hooks += module._forward_pre_hooks.values()
    kept = [(found, dict(found)) for found in observers if found]
    contents = [
        pair
        for hook in hooks
        if not _is_torchs(hook)
        for item in _referents(hook)
        for pair in _snapshots(item)
    ]
    try:
        for found, before in kept:
            for key, hook in before.items():
                if not _is_torchs(hook):
                    del found[key]
        yield
    finally:
        for found, before in kept:
            added = {key: hook for key, hook in found.items() if key not in before}
            found.clear()
            found.update(before)
            found.update(added)
        for item, before in contents:
            _restore(item, before)


def _is_torchs(hook: Callable[..., Any]) -> bool:
    """Whether a hook belongs to torch, for example old weight normalisation."""
    owner = getattr(hook, "__module__", None) or type(hook).__module__
    return owner.partition(".")[0] == "torch"


def _referents(hook: Callable[..., Any]) -> Iterator[Any]:
    """Return the objects that a function reaches: closure, globals, bound values."""
    if isinstance(hook, functools.partial):
        yield from (*hook.args, *hook.keywords.values())
        hook = hook.func
    yield getattr(hook, "__self__", hook)
    function = getattr(hook, "__func__", hook)
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty cell
            yield cell.cell_contents
    code = getattr(function, "__code__", None)
    names = code.co_names if isinstance(code, CodeType) else ()
    known = getattr(function, "__globals__", {})
    yield from (known[name] for name in names if name in known)


def _snapshots(item: Any) -> Iterator[tuple[Any, Any]]:
    """Return containers with copies of what they hold: the item, its attributes."""
    if isinstance(item, list | dict | set):
        yield item, item.copy()
    elif not isinstance(item, nn.Module | type) and _is_plain_object(item):
        yield vars(item), dict(vars(item))
        for value in vars(item).values():
            if isinstance(value, list | dict | set):
                yield value, value.copy()


def _is_plain_object(item: Any) -> bool:
    """Whether it is an instance with attributes, not a function or a library."""
    is_builtin = type(item).__module__ == "builtins"
    return hasattr(item, "__dict__") and not is_builtin


def _restore(item: Any, before: Any) -> None:
    """Put back what a container held."""
    if isinstance(item, list):
        item[:] = before
    else:
        item.clear()
        item.update(before)
