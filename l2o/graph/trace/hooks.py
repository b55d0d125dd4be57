"""Hooks of a module while it runs for the tracer."""

import contextlib
import dis
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module


@contextlib.contextmanager
def quiet_hooks(model: nn.Module) -> Iterator[None]:
    """Run a model without the hooks that only observe it.

    A hook after the forward pass is off if its code returns nothing, so that it cannot
    change what the network computes. Hooks of the backward pass are off. Hooks before
    the forward pass stay on, since they may compute weights (weight normalisation, an
    equalised learning rate), and so do the hooks of torch itself.

    Args:
        model: the network; its submodules are included.
    """
    observers: list[dict[int, Any]] = [
        torch_module._global_forward_pre_hooks,
        torch_module._global_forward_hooks,
        torch_module._global_backward_pre_hooks,
        torch_module._global_backward_hooks,
    ]
    for module in model.modules():
        observers += [
            module._forward_hooks,
            module._backward_pre_hooks,
            module._backward_hooks,
        ]
    kept = [(found, dict(found)) for found in observers if found]
    try:
        for found, before in kept:
            for key, hook in before.items():
                if not _is_torchs(hook) and _returns_nothing(hook):
                    del found[key]
        yield
    finally:
        for found, before in kept:
            added = {key: hook for key, hook in found.items() if key not in before}
            found.clear()
            found.update(before)
            found.update(added)


def _is_torchs(hook: Callable[..., Any]) -> bool:
    """Whether a hook belongs to torch, for example old weight normalisation."""
    owner = getattr(hook, "__module__", None) or type(hook).__module__
    return owner.partition(".")[0] == "torch"


def _returns_nothing(hook: Callable[..., Any]) -> bool:
    """Whether the code of a hook shows that it never returns a value."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    function = getattr(hook, "__func__", hook)
    if not hasattr(function, "__code__"):
        function = type(function).__call__
    if not hasattr(function, "__code__"):
        return False
    steps = itertools.pairwise(dis.get_instructions(function.__code__))
    for before, step in steps:
        if step.opname == "RETURN_CONST" and step.argval is not None:
            return False
        loads_none = before.opname == "LOAD_CONST" and before.argval is None
        if step.opname == "RETURN_VALUE" and not loads_none:
            return False
    return True
