"""The paper's graph of a layered network: skips are edges, not nodes of a sum."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from l2o.graph import NeuralGraph, Neurons, Operation, Symmetry, Tie
from l2o.graph.infer import graph_from_shapes

ACTIVATIONS = (
    "none",
    "relu",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "leaky_relu",
    "sin",
    "elu",
    "selu",
    "celu",
    "softplus",
    "mish",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "relu6",
    "log_sigmoid",
    "prelu",
    "cos",
    "exp",
    "abs",
)
"""Names of activations that an embedding can tell apart."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def layered_graph(
    shapes: dict[str, tuple[int, ...]],
    *,
    activations: Sequence[str] = (),
    skips: Sequence[int | None] = (),
) -> NeuralGraph:
    """Return the neural graph of a chain of layers, with skips between hidden layers.

    A trace gives every residual sum neurons of its own. The paper instead draws one
    edge of weight 1 from neuron i of the earlier hidden layer to neuron i of the later
    one, whose neurons then stand for what follows the sum. This is that graph.

    Args:
        shapes: parameter name to shape, in the order of the layers: each weight
            `[out, in, *kernel]`, then its bias if there is one.
        activations: for each hidden layer one of `ACTIVATIONS`, or "identity" for
            "none"; empty if they are not known.
        skips: for each hidden layer the index of the hidden layer that is added to it
            before its activation, or None; empty for none. Where widths differ, the
            first channels that both have are joined.

    Returns:
        The graph; the same object for the same arguments.

    Raises:
        ValueError: if the shapes are no chain, or if `activations` or `skips` do not
            fit its hidden layers.

    Example:
        >>> shapes = {"0.weight": (4, 3, 5, 5), "0.bias": (4,)}
        >>> shapes |= {"1.weight": (8, 4, 3, 3), "2.weight": (8, 8, 3, 3)}
        >>> shapes |= {"head.weight": (10, 8)}
        >>> graph = layered_graph(
        ...     shapes, activations=("relu", "tanh", "gelu"), skips=(None, None, 0)
        ... )
        >>> [(len(tie.source), tie.target.group) for tie in graph.ties]
        [(4, 3)]

    Reference:
        Kofinas et al., 2024, section 3.1 and appendix C.2.
    """
    frozen = tuple((name, tuple(shape)) for name, shape in shapes.items())
    return _layered_graph(frozen, tuple(activations), tuple(skips))


@lru_cache(maxsize=4096)
def _layered_graph(
    shapes: Shapes, activations: tuple[str, ...], skips: tuple[int | None, ...]
) -> NeuralGraph:
    graph = graph_from_shapes(dict(shapes), source="parameter shapes and skips")
    if graph.unplaced:
        raise ValueError(
            "layered_graph needs the shapes of a chain of layers; got "
            f"{graph.unplaced[0].parameter!r}, of which is known: "
            f"{graph.unplaced[0].reason}. Pass weights and biases in layer order, or "
            "trace the network with neural_graph."
        )
    hidden = len(graph.groups) - 2
    for name, given in (("activations", activations), ("skips", skips)):
        if given and len(given) != hidden:
            raise ValueError(
                f"layered_graph needs one of {name} for each of {hidden} hidden "
                f"layers; got {len(given)}. Leave the output layer out."
            )
    groups = list(graph.groups)
    for layer, name in enumerate(activations, start=1):
        if name not in (*ACTIVATIONS, "identity"):
            raise ValueError(
                f"layered_graph needs activations out of {ACTIVATIONS}; got {name!r}. "
                "Name another that is like it, or pass none at all."
            )
        groups[layer] = replace(groups[layer], operations=(Operation(name=name),))
    ties = [
        _tie(graph, source, layer)
        for layer, source in enumerate(skips)
        if source is not None
    ]
    return replace(
        graph,
        groups=tuple(groups),
        ties=tuple(ties),
        symmetries=_symmetries(graph, ties),
    )


def _tie(graph: NeuralGraph, source: int, target: int) -> Tie:
    """Return the skip from one hidden layer to another."""
    if not 0 <= source < target:
        raise ValueError(
            "layered_graph needs skips from an earlier hidden layer; got one from "
            f"{source} to {target}. Count hidden layers from 0, None for no skip."
        )
    sizes = graph.groups[source + 1].size, graph.groups[target + 1].size
    both = range(min(sizes))
    return Tie(
        kind="residual",
        source=Neurons(source + 1, both),
        target=Neurons(target + 1, both),
    )


def _symmetries(graph: NeuralGraph, ties: list[Tie]) -> tuple[Symmetry, ...]:
    """Return which hidden neurons may change places.

    Skips join equal numbers, so a neuron moves together with those of its number in
    the layers that it is joined with. Neurons joined alike are exchangeable.
    """
    alike: dict[frozenset[int], list[int]] = {}
    for number in range(max(group.size for group in graph.groups)):
        joined = {
            layer: {layer}
            for layer, group in enumerate(graph.groups)
            if group.role == "hidden" and number < group.size
        }
        for tie in ties:
            if number < len(tie.source):
                both = joined[tie.source.group] | joined[tie.target.group]
                joined.update(dict.fromkeys(both, both))
        for layers in {frozenset(layers) for layers in joined.values()}:
            alike.setdefault(layers, []).append(number)
    return tuple(
        Symmetry(tuple(Neurons(layer, tuple(numbers)) for layer in sorted(layers)))
        for layers, numbers in alike.items()
    )
