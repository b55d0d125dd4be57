"""From one real forward pass of any module to its neural graph."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from l2o.graph.neural_graph import NeuralGraph

from .assemble import assemble
from .calls import Call as Call
from .contraction import multiplied as multiplied
from .labels import Labelled as Labelled
from .labels import Labels as Labels
from .locations import NEVER_USED, PARTLY_USED
from .operators import OPERATORS as OPERATORS
from .pointwise import entrywise as entrywise
from .random_state import RandomState as RandomState
from .replay import REFUSALS, cut, replay
from .tracer import Tracer as Tracer


class NetworkTrace:
    """What forward passes of a module show; each pass adds to the graph.

    Args:
        parameters: names and tensors of the graph.

    Raises:
        ValueError: if there is no parameter, or one without a shape.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2)
        >>> passes = NetworkTrace(dict(model.named_parameters()))
        >>> passes.run(model, (torch.randn(2, 3),), {})
        >>> passes.is_complete, passes.graph().placed_share
        (True, 1.0)
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        _check(parameters)
        self._names = list(parameters)
        self._tracer = Tracer(self._names, list(parameters.values()))
        self._tracer.end_pass()
        self._graph: NeuralGraph | None = None
        self._title = "given"

    def run(
        self,
        model: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        parameters: Mapping[str, Tensor] | None = None,
        random_state: RandomState | None = None,
    ) -> None:
        """Run the module and add what is seen.

        Of a batch, two samples are used if the model takes them; the whole batch
        follows if a parameter was not reached by those. Nothing is added if the model
        raises.

        Args:
            model: the network.
            args: positional inputs.
            kwargs: named inputs.
            parameters: names and tensors of the graph, in the order of the first pass;
                None means the model's own.
            random_state: random numbers that the pass draws, so that chance decides as
                it did when the state was captured; None means those that come next.
        """
        named = dict(model.named_parameters()) if parameters is None else parameters
        tensors, core = [named[name] for name in self._names], unwrapped(model)
        self._title = f"trace of {type(core).__name__}"
        small = cut(args, kwargs)
        if small is not None:
            with contextlib.suppress(*REFUSALS):  # the whole batch tells why
                self._add(core, *small, tensors, random_state)
                if self.is_complete:
                    return
        self._add(core, args, kwargs, tensors, random_state)

    def _add(
        self,
        model: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tensors: list[Tensor],
        random_state: RandomState | None,
    ) -> None:
        tracer = self._tracer.again(tensors)
        try:
            replay(model, args, kwargs, tracer, random_state, keeps_saved=False)
        except REFUSALS:  # perhaps for a gradient that is taken inside `forward`
            tracer = self._tracer.again(tensors)
            replay(model, args, kwargs, tracer, random_state)
        tracer.end_pass()
        self._tracer, self._graph = tracer, None

    def graph(self) -> NeuralGraph:
        """Return the graph of all passes so far."""
        if self._graph is None:
            log, shapes = self._tracer.log.copy(), self._tracer.parameters
            named = dict(zip(self._names, shapes, strict=True))
            self._graph = assemble(log, named, source=self._title)
        return self._graph

    @property
    def is_complete(self) -> bool:
        """Whether the passes so far have used every entry of every parameter."""
        missing = (NEVER_USED, PARTLY_USED)
        return all(item.reason not in missing for item in self.graph().unplaced)

    @property
    def unknown(self) -> list[str]:
        """Operators that could not be followed."""
        return list(self._tracer.unknown)


def trace(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    parameters: Mapping[str, Tensor] | None = None,
    random_state: RandomState | None = None,
    strict: bool = False,
) -> NeuralGraph:
    """Return the graph of a module from one forward pass.

    Args:
        model: the network.
        args: positional inputs.
        kwargs: named inputs.
        parameters: names and tensors of the graph; None means the model's own.
        random_state: random numbers that the pass draws; None means those that come
            next.
        strict: whether an uncertain place is an error.

    Raises:
        ValueError: if the model has no parameter or one without a shape, or, if
            `strict`, if something has no certain place.
    """
    named = dict(model.named_parameters()) if parameters is None else parameters
    passes = NetworkTrace(named)
    passes.run(model, args, kwargs, parameters=named, random_state=random_state)
    graph = passes.graph()
    if strict and (graph.unplaced or passes.unknown):
        raise ValueError(_complaint(graph, passes.unknown))
    return graph


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile` and data-parallel wrappers."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    # Imported only where a module is compiled; the import takes a second.
    compiling = sys.modules.get("torch._dynamo.eval_frame")
    while True:
        if compiling is not None and isinstance(model, compiling.OptimizedModule):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


def _check(named: Mapping[str, Tensor]) -> None:
    if not named:
        raise ValueError(
            "neural_graph needs at least one parameter; got none. "
            "Pass a module with parameters, or a non-empty iterable of tensors."
        )
    lazy = [n for n, p in named.items() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"neural_graph needs parameters with a shape; got lazy ones: {lazy}. "
            "Run the model once on real inputs first."
        )


def _complaint(graph: NeuralGraph, unknown: list[str]) -> str:
    places = "; ".join(f"{item.parameter}: {item.reason}" for item in graph.unplaced)
    return (
        "neural_graph needs, with strict=True, a certain place for every parameter; "
        f"got {len(graph.unplaced)} without ({places or 'none'}), and operators that "
        f"it cannot follow: {', '.join(unknown) or 'none'}. Pass strict=False to let "
        "them stand alone."
    )
