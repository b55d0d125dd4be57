"""Building a graph from a module, with or without a forward pass."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from .infer import graph_from_shapes
from .isolate import isolate
from .neural_graph import NeuralGraph, Unplaced
from .trace import trace


def neural_graph(
    network: nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
    *example_inputs: Any,
    strict: bool = False,
    **example_kwargs: Any,
) -> NeuralGraph:
    """Return the neural graph of a network.

    With example inputs the module is *traced*: it runs once more, and every operator
    that it calls is followed, which shows which neurons and which parameter entries
    meet. So any module will do, whatever Python it is written in: convolutions,
    attention, residual sums, norms, recurrence, tied weights, loops, branches, and
    gradients taken inside `forward`. Weights, gradients, buffers, attributes, random
    numbers, modes and hooks are put back afterwards (see `docs/drop-in.md` for what
    cannot be). Two samples of a batch are used where the model allows it, and the whole
    batch if a parameter is not reached by those.

    Parameters that the trace cannot follow stand alone and are listed in
    `graph.unplaced` with the reason; the neurons that they touch are not called
    exchangeable. `graph.describe()` returns a table.

    Without example inputs, shapes in the order of the layers are all there is. They
    prove a plain chain of linear or convolutional layers and little else.

    Args:
        network: a module; without example inputs also a mapping of names to parameters,
            or parameters in order (named "0", "1", ...).
        example_inputs: what `network(...)` takes, in real shapes; the values matter
            only where the network branches on them.
        strict: whether an uncertain place is an error.
        example_kwargs: named inputs, as in `neural_graph(model, **batch)`.

    Returns:
        The graph. It holds no reference to the tensors.

    Raises:
        ValueError: if there is no parameter, or a lazy one; with `strict`, if anything
            has no certain place.
        TypeError: if example inputs come with something that is no module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
        >>> graph = neural_graph(model, torch.randn(2, 4))
        >>> [(group.name, group.size) for group in graph.groups]
        [('inputs', 4), ('0', 8), ('1', 8), ('2', 3)]
        >>> graph.placed_share
        1.0

    Reference:
        Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143,
        section 3 and appendix C. There the graphs are built by hand, one builder per
        kind of layer; here they are read off a run, and attention heads keep their
        neurons to themselves.
    """
    if example_inputs or example_kwargs:
        if not isinstance(network, nn.Module):
            raise TypeError(
                "neural_graph needs a module to run example inputs through; got "
                f"{type(network).__name__}. Pass the module, or leave the inputs out."
            )
        return trace(network, example_inputs, example_kwargs, strict=strict)
    named: Mapping[str, Tensor]
    if isinstance(network, nn.Module):
        named, source = dict(network.named_parameters()), "module names and shapes"
    elif isinstance(network, Mapping):
        named = {str(name): tensor for name, tensor in network.items()}
        source = "parameter names and shapes"
    else:
        named = {str(index): tensor for index, tensor in enumerate(network)}
        source = "parameter shapes"
    if not named:
        raise ValueError(
            "neural_graph needs at least one parameter; got none. "
            "Pass a module with parameters, or a non-empty iterable of tensors."
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    graph = graph_from_shapes(shapes, source=source)
    if strict and graph.unplaced:
        names = ", ".join(repr(item.parameter) for item in graph.unplaced)
        raise ValueError(
            "neural_graph needs, with strict=True, a certain place for every "
            f"parameter; got shapes that do not place {names}. Pass example inputs, so "
            "that the module can be traced."
        )
    return graph


def graph_so_far(
    shapes: dict[str, tuple[int, ...]], known: NeuralGraph | None, *, is_named: bool
) -> NeuralGraph:
    """Return the best graph of parameters whose network has not run.

    Args:
        shapes: name to shape, in the order of the layers.
        known: a graph that may hold some of them, from a trace; it is kept.
        is_named: whether the names tell modules apart.
    """
    added = shapes
    if known is not None and known.source.startswith("trace"):
        added = dict(shapes)
        for name, shape in known.shapes.items():
            if added.pop(name, None) != shape:
                known = None
                break
    else:
        known = None
    source = f"parameter {'names and shapes' if is_named else 'shapes'}"
    guess = graph_from_shapes(shapes, source=source)
    if known is None or not guess.unplaced:
        return guess
    isolated = isolate(added, first=len(known.groups))
    reason = "it came after the trace"
    loose = (Unplaced(parameter=name, reason=reason) for name in added)
    return NeuralGraph(
        shapes=known.shapes | added,
        groups=(*known.groups, *isolated.groups),
        blocks=(*known.blocks, *isolated.blocks),
        node_parameters=(*known.node_parameters, *isolated.node_parameters),
        ties=known.ties,
        symmetries=known.symmetries,
        unplaced=(*known.unplaced, *loose),
        source=known.source,
    )
