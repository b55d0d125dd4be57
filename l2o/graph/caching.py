"""Results that depend on a graph alone, computed once and kept with it."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from .neural_graph import NeuralGraph

P = ParamSpec("P")
T = TypeVar("T")


def derived(
    find: Callable[Concatenate[NeuralGraph, P], T],
) -> Callable[Concatenate[NeuralGraph, P], T]:
    """Compute a function of a graph once per graph and arguments.

    The result is stored in `graph.cache`, so it lives as long as the graph and is
    shared by everyone who asks for it: callers must not change it.

    Args:
        find: a function whose first argument is the graph; the other arguments must be
            hashable.

    Example:
        >>> import l2o, torch
        >>> @derived
        ... def count_groups(graph, role):
        ...     print("counting")
        ...     return sum(group.role == role for group in graph.groups)
        >>> graph = l2o.neural_graph(torch.nn.Linear(3, 2))
        >>> count_groups(graph, "input"), count_groups(graph, "input")
        counting
        (1, 1)
    """
    name = f"{find.__module__}.{find.__qualname__}"

    @functools.wraps(find)
    def kept(graph: NeuralGraph, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (name, *args, *kwargs.items())
        if key not in graph.cache:
            # Threads may race; `setdefault` keeps one result for all of them.
            graph.cache.setdefault(key, find(graph, *args, **kwargs))
        return graph.cache[key]

    return kept
