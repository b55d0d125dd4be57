"""From one real forward pass of any module to its neural graph."""

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
from .operators import OPERATORS as OPERATORS
from .pointwise import entrywise as entrywise
from .replay import run_isolated
from .tracer import Tracer as Tracer


def trace(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    parameters: Mapping[str, Tensor] | None = None,
    strict: bool = False,
) -> NeuralGraph:
    """Return the graph of a module from one forward pass.

    Args:
        model: the network.
        args: positional inputs.
        kwargs: named inputs.
        parameters: names and tensors of the graph; None means the model's own.
        strict: whether doubt is an error.

    Raises:
        ValueError: if the model has no parameter or one without a shape, or, if
            `strict`, if something has no certain place.
    """
    named = dict(model.named_parameters()) if parameters is None else dict(parameters)
    _check(named)
    core = unwrapped(model)

    def start() -> Tracer:
        return Tracer(list(named), list(named.values()))

    tracer = run_isolated(core, args, kwargs, start)
    title = f"trace of {type(core).__name__}"
    graph = assemble(tracer.log, named, source=title)
    if strict and (graph.unplaced or tracer.unknown):
        raise ValueError(_complaint(graph, list(tracer.unknown)))
    return graph


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile` and data-parallel wrappers."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    # Only who compiles a module imports this file of torch, which takes a second.
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
