"""Finding the modules that an optimizer trains, and their first inputs.

Parameters reach an optimizer as lists, groups and chains that do not tell which module
holds them. So between the construction of an optimizer and its first step, global
hooks see every module call. The outermost modules that hold the parameters are the
network; what they are first called with is kept, and the trace runs from it. The hooks
leave as soon as all parameters are found, at the first step, and with the optimizer.
References to modules are weak.
"""

import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from l2o.graph import NeuralGraph
from l2o.graph.trace import NetworkTrace, RandomState, unwrapped

from .distributed import unsharded
from .inputs import autocast, autocast_of, is_ordinary
from .kept_calls import Call, KeptInputs, joined, returned

# `torch.compiler.disable` without importing the compiler, which takes a second.
_without_compiler = torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
_run = cast(Callable[..., None], _without_compiler(NetworkTrace.run))


class Capture:
    """Watches module calls until the modules that hold some tensors have run."""

    def __init__(
        self,
        tensors: "weakref.WeakMethod[Callable[[], list[Tensor]]]",
        passes: NetworkTrace | None = None,
    ) -> None:
        """Start watching.

        Args:
            tensors: returns the tensors whose modules are looked for. It is asked at
                each call, since libraries may exchange an optimizer's parameters.
            passes: earlier passes of the same tensors, to be completed.
        """
        self._tensors = tensors
        self.passes = passes
        self.traced: NetworkTrace | None = None
        """The passes that `read` returned a graph of."""
        self._calls: list[Call] = []
        self._inputs = KeptInputs()
        self.compiled: tuple[nn.Module, tuple[Any, ...], dict[str, Any]] | None = None
        """The last call that `torch.compile` saw: of nested calls, the outermost."""
        self.is_fresh = False
        """Whether a call was seen that `read` has not traced."""
        self._leave = _watch_calls(self)

    @property
    def is_waiting(self) -> bool:
        """Whether the hooks are still there."""
        return self._leave.alive

    @property
    def has_seen(self) -> bool:
        """Whether a module of the tensors was called."""
        self._take_compiled()
        return bool(self._live())

    @property
    def title(self) -> str:
        """Names of the modules' classes."""
        names = [type(unwrapped(module)).__name__ for _, module in self._live()]
        shown = names if len(names) < 4 else [*names[:2], f"{len(names) - 2} more"]
        return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))

    def close(self) -> None:
        """Take the hooks away."""
        self._leave()

    def see(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Keep the inputs of a call if it is the outermost of its tensors."""
        tensors = self._tensors()
        if tensors is None or not is_ordinary((args, kwargs)):
            return
        wanted = {id(tensor) for tensor in tensors()}
        params = [*module.parameters()]
        held = frozenset(map(id, params)) & wanted
        if not held or any(held <= call.held for call in self._calls):
            return
        self._calls = [call for call in self._calls if not call.held <= held]
        kind = params[0].device.type
        self._calls.append(
            Call(
                weakref.ref(module),
                held,
                self._inputs.keep((args, kwargs), self._calls),
                autocast_of(kind),
                RandomState.capture(module),
            )
        )
        self.is_fresh = True
        if frozenset().union(*(call.held for call in self._calls)) == wanted:
            self.close()

    def note_outputs(self, module: nn.Module, outputs: object) -> None:
        """Remember what a kept call returned: another may take it as input."""
        for call in self._calls:
            if call.outputs is None and call.module() is module:
                call.outputs = returned(outputs)

    def names(self) -> dict[int, str]:
        """Return `id` of each tensor found to its name in its module.

        Names of several modules start with the names of their classes.
        """
        names: dict[int, str] = {}
        live = self._live()
        taken: dict[str, int] = {}
        for call, module in live:
            title = type(unwrapped(module)).__name__
            taken[title] = taken.get(title, 0) + 1
            number = f"#{taken[title]}" if taken[title] > 1 else ""
            prefix = f"{title}{number}." if len(live) > 1 else ""
            for name, param in unwrapped(module).named_parameters():
                if id(param) in call.held:
                    names.setdefault(id(param), prefix + name)
        return names

    def read(
        self, parameters: Mapping[str, Tensor], check: Callable[[NeuralGraph], None]
    ) -> NeuralGraph | None:
        """Return the graph of the calls that were kept.

        Whatever the modules, the tracer or the check raises becomes one warning.

        Args:
            parameters: names and tensors of the graph.
            check: raises if the graph cannot be used.

        Returns:
            The graph; None if there is none.
        """
        self.is_fresh = False
        calls = self._live()
        if not calls:
            return None
        title = self.title
        model, inputs = joined(calls)
        first = calls[0][0]
        try:
            with (
                autocast(first.autocast),
                unsharded(model) as stand_ins,
            ):
                named = {n: stand_ins.get(id(p), p) for n, p in parameters.items()}
                passes = self.passes or NetworkTrace(named)
                state = first.random_state
                _run(passes, model, *inputs, parameters=named, random_state=state)
            graph = replace(passes.graph(), source=f"trace of {title}")
            check(graph)
        except Exception as error:
            # The step must succeed whatever a model's code does in a second run.
            warnings.warn(
                "NeuralGraphOpt could not trace the first forward pass of "
                f"{title} ({type(error).__name__}: {error}). It goes on with the "
                "graph that shapes prove; pass graph=l2o.neural_graph(model, inputs) "
                "to see the whole error.",
                stacklevel=7,
            )
            return None
        self.traced = passes
        self._warn_of_lost()
        return graph

    def _warn_of_lost(self) -> None:
        """Say which modules are not joined, though autograd joins them."""
        lost = [
            type(unwrapped(m)).__name__ for call, m in self._live() if call.has_lost
        ]
        if lost and self.passes is None:
            warnings.warn(
                "NeuralGraphOpt needs modules that hand their outputs, or views of "
                "them, to other modules; got inputs that were computed from the output "
                f"of {', '.join(lost)} outside of any module. The graph does not join "
                "the two. Let the forward of one module do it all, or pass graph=.",
                stacklevel=7,
            )

    def _live(self) -> list[tuple[Call, nn.Module]]:
        """Return the calls whose modules still exist."""
        pairs = [(call, call.module()) for call in self._calls]
        return [(call, module) for call, module in pairs if module is not None]

    def _take_compiled(self) -> None:
        """Keep the call that was seen while a module was compiled in place."""
        seen, self.compiled = self.compiled, None
        if seen is not None:
            self.see(*seen)


def _watch_calls(capture: Capture) -> "weakref.finalize[Any, Capture]":
    """Let a capture see the module calls of this process; call the result to end it."""
    reference = weakref.ref(capture)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        seer = None if torch.compiler.is_compiling() else reference()
        if seer is not None:
            seer.see(module, args, _keywords_of_call())

    def after(module: nn.Module, args: Any, kwargs: Any, outputs: object) -> None:
        seer = reference()
        if seer is None:
            return
        if torch.compiler.is_compiling():
            seer.compiled = module, args, kwargs
        else:
            seer.note_outputs(module, outputs)

    handles = (
        torch_module.register_module_forward_pre_hook(before),
        torch_module.register_module_forward_hook(after, with_kwargs=True),
    )
    warnings.filterwarnings("ignore", message=_OF_COMPILED, category=UserWarning)
    _watching.append(handles)
    return weakref.finalize(capture, _remove, handles, warnings.filters[0])


_watching: list[tuple[RemovableHandle, RemovableHandle]] = []
"""The hooks of every capture."""
_OF_COMPILED = r"Using `torch\.compile\(module\)` when there are global hooks"
"""What a compiled module says of every global hook; ours only looks."""


def _remove(handles: tuple[RemovableHandle, RemovableHandle], entry: object) -> None:
    """Take the hooks of one capture away, and with the last ones the filter."""
    for handle in handles:
        handle.remove()
        # torch 2.13 forgets this one, and compiled modules then warn of a global hook.
        torch_module._global_forward_hooks_with_kwargs.pop(handle.id, None)
    _watching.remove(handles)
    filters = cast(list[object], warnings.filters)
    if not _watching and entry in filters:
        filters.remove(entry)


def _keywords_of_call() -> dict[str, Any]:
    """Return the keyword arguments of the module call that runs a global pre-hook.

    torch passes them to the pre-hooks of a single module only.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != torch_module.__file__:
        frame = frame.f_back
    found = {} if frame is None else frame.f_locals.get("kwargs", {})
    return dict(found)


def warn_of_loose(graph: NeuralGraph, title: str, *, stacklevel: int) -> None:
    """Say that much of the graph is unknown, and why."""
    reasons = Counter(item.reason for item in graph.unplaced)
    shown = "; ".join(
        f"{reason} ({count} parameters)" for reason, count in reasons.most_common(3)
    )
    seen = f"after a call of {title}" if title else "without a call of a module"
    warnings.warn(
        "NeuralGraphOpt needs a place in the graph for most parameters; got "
        f"{graph.placed_share:.0%} placed {seen}: {shown}. The others are updated "
        "without neighbours. "
        "Call the model itself before the first step, pass graph="
        "l2o.neural_graph(model, inputs), or look at optimizer.graph.unplaced.",
        stacklevel=stacklevel,
    )
