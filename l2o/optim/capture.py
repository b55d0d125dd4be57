"""Finding the module behind `model.parameters()`, and its first forward pass.

The generator that `nn.Module.parameters` returns still holds its module, so an
optimizer that was built from it knows whom to watch. A hook on that module keeps the
inputs of its first call and takes itself away; the trace runs from them when the
optimizer first needs its graph. All references to the module are weak.
"""

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import GeneratorType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch.utils import _pytree as pytree

from l2o.graph import NeuralGraph
from l2o.graph.trace import trace

from .distributed import unsharded

_SOURCES = tuple(
    method.__code__ for method in (nn.Module.parameters, nn.Module.named_parameters)
)

# `torch.compiler.disable` without importing the compiler, which takes a second.
_without_compiler = torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
_trace = cast(Callable[..., NeuralGraph], _without_compiler(trace))


def owner_of(params: object) -> nn.Module | None:
    """Return the module whose `parameters()` or `named_parameters()` this is.

    Groups and `filter` objects are looked into. The generator is not advanced.

    Returns:
        The module; None if there is none, or not one for all groups.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> owner_of(model.parameters()) is model
        True
        >>> owner_of(list(model.parameters())) is None
        True
    """
    if isinstance(params, filter):
        params = params.__reduce__()[1][1]
    if isinstance(params, dict):
        return owner_of(params.get("params"))
    if isinstance(params, GeneratorType):
        if params.gi_code not in _SOURCES or params.gi_frame is None:
            return None
        return params.gi_frame.f_locals["self"]
    if isinstance(params, list | tuple) and all(isinstance(g, dict) for g in params):
        owners = {id(owner): owner for owner in map(owner_of, params)}
        return next(iter(owners.values())) if len(owners) == 1 else None
    return None


class Capture:
    """Waits for the first forward pass of a module."""

    def __init__(self, model: nn.Module, *, waits: bool = True) -> None:
        """Watch `model`; the hook leaves after one call, or with this object."""
        self._model = weakref.ref(model)
        self.title = type(model).__name__
        """Name of the module's class."""
        self.is_waiting = waits
        """Whether the module has not run yet."""
        self._has_warned = False
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._autocast: tuple[str, torch.dtype] | None = None
        self._hook = _Hook(weakref.ref(self))
        if not waits:
            return
        model.register_forward_pre_hook(self._hook, with_kwargs=True)
        weakref.finalize(self, _remove, self._model, weakref.ref(self._hook))

    @property
    def model(self) -> nn.Module | None:
        """The module, None if it is gone."""
        return self._model()

    @property
    def is_ready(self) -> bool:
        """Whether the module has run and nobody has looked yet."""
        return self._inputs is not None

    def offer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the inputs of a call."""
        self._inputs = args, kwargs
        self.is_waiting = False

    def keep_autocast(self, kind: str, dtype: torch.dtype) -> None:
        """Note that the call was made under autocast."""
        self._autocast = kind, dtype

    def read(
        self, parameters: Mapping[str, Tensor], check: Callable[[NeuralGraph], None]
    ) -> NeuralGraph | None:
        """Return the graph of the call that was kept.

        Whatever the module, the tracer or the check raises becomes one warning.

        Args:
            parameters: names and tensors of the graph.
            check: raises if the graph cannot be used.

        Returns:
            The graph; None if there is none.
        """
        model, inputs = self.model, self._inputs
        self._inputs = None
        if model is None or inputs is None:
            return None
        self._hook.leave(model)
        try:
            with self._again(), unsharded(model) as stand_ins:
                named = {n: stand_ins.get(id(p), p) for n, p in parameters.items()}
                graph = _trace(model, *inputs, parameters=named)
            check(graph)
            return graph
        except Exception as error:
            # An optimizer must step whatever a model's code does in a second run.
            warnings.warn(
                "NeuralGraphOpt could not trace the first forward pass of "
                f"{self.title} ({type(error).__name__}: {error}). It goes on with the "
                "graph that shapes prove; pass graph=l2o.neural_graph(model, inputs) "
                "to see the whole error.",
                stacklevel=6,
            )
            return None

    @contextlib.contextmanager
    def _again(self) -> Iterator[None]:
        """Run under the autocast of the call."""
        if self._autocast is None:
            yield
            return
        kind, dtype = self._autocast
        with torch.autocast(kind, dtype=dtype):
            yield

    def may_warn(self, graph: NeuralGraph) -> bool:
        """Whether to say, once, that a step came before the first forward pass."""
        warns = not self._has_warned and graph.placed_share < 1
        self._has_warned = True
        return warns

    def __deepcopy__(self, memo: dict[int, Any]) -> "Capture | None":
        """Watch the copy of the module, if it was copied along."""
        model = self.model
        copied = None if model is None else memo.get(id(model))
        return None if copied is None else Capture(copied, waits=self.is_waiting)

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Stay behind when the optimizer is pickled: the module may not come along."""
        return _nothing, ()


class _Hook:
    """The hook itself. Copies of a module get hooks that do nothing but leave."""

    def __init__(self, capture: "weakref.ref[Capture] | None") -> None:
        self._capture = capture

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if torch.compiler.is_compiling():
            # Inlined by the compiler, which may not see the hook go.
            capture = None if self._capture is None else self._capture()
            if capture is not None and capture.is_waiting:
                capture.offer(args, kwargs)
            return
        capture = None if self._capture is None else self._capture()
        if capture is not None and capture.is_waiting:
            if _is_transformed(module):
                return
            self._keep(capture, module, args, kwargs)
        self.leave(module)

    def _keep(
        self,
        capture: Capture,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        inputs = pytree.tree_map(_detached, (args, kwargs))
        capture.offer(*inputs)
        kind = next(module.parameters()).device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            capture.keep_autocast(kind, torch.get_autocast_dtype(kind))

    def leave(self, module: nn.Module) -> None:
        """Take the hook off a module."""
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is self:
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Hook":
        """Return a hook for a copy of the module, which no optimizer watches."""
        return _Hook(None)

    def __reduce__(self) -> tuple[type["_Hook"], tuple[None]]:
        """Forget the optimizer."""
        return _Hook, (None,)


def watch(owner: nn.Module | None, tensors: Mapping[str, Tensor]) -> Capture | None:
    """Wait for a module, if all the tensors are its own."""
    if owner is None:
        return None
    own = {id(tensor) for tensor in owner.parameters()}
    return Capture(owner) if all(id(t) in own for t in tensors.values()) else None


def _remove(model: "weakref.ref[nn.Module]", hook: "weakref.ref[_Hook]") -> None:
    """Take the hook off, when the optimizer is gone."""
    module, item = model(), hook()
    if module is not None and item is not None:
        item.leave(module)


def _nothing() -> None:
    """Stand for a capture that stayed behind."""


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


def _is_transformed(module: nn.Module) -> bool:
    """Whether a call runs on other tensors than the module's own parameters."""
    if maybe_current_level() is not None:
        return True
    return not all(isinstance(p, nn.Parameter) for p in module.parameters())


def warn_of_no_pass(capture: Capture, graph: NeuralGraph, *, stacklevel: int) -> None:
    """Say that the graph is poorer than it could be."""
    warnings.warn(
        f"NeuralGraphOpt has seen no forward pass of {capture.title} before this step, "
        f"so shapes alone tell its graph ({graph.placed_share:.0%} placed). Call the "
        "model itself before `step`, or pass graph=l2o.neural_graph(model, inputs).",
        stacklevel=stacklevel,
    )
