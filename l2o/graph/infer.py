"""From bare parameters to a neural graph: what shapes alone can prove.

Shapes prove the wiring of a plain chain (a multi-layer perceptron, or a
convolutional network with a pooled or flattened head) and of little else. One weight
that does not fit the chain proves that the network branches somewhere, and then every
connection is in doubt: all weights become isolated blocks and say so in
`NeuralGraph.unplaced`.

So do names: two modules with several weights each that take equally many inputs may
read the same values.

Two things look like a chain and need not be one, and only a trace of the network could
tell: parallel layers without such names, and a vector without a name that follows a
weight without a bias.
"""

import itertools
import math
from collections import Counter

from .isolate import isolate
from .neural_graph import (
    NeuralGraph,
    NeuronGroup,
    Neurons,
    NodeParameter,
    Role,
    Symmetry,
    Unplaced,
    View,
    WeightBlock,
)

Shape = tuple[int, ...]


def graph_from_shapes(shapes: dict[str, Shape], *, source: str) -> NeuralGraph:
    """Return the neural graph of parameters given by name and shape, in layer order."""
    layers, loose = _split_layers(shapes)
    misfit = _first_misfit(shapes, layers) or _rivals(shapes, [w for w, _ in layers])
    if misfit is not None:
        for weight, bias in layers:
            loose[weight] = misfit
            if bias is not None:
                loose[bias] = misfit
        layers = []
    return _Builder(shapes, source).build(layers, loose)


def _split_layers(
    shapes: dict[str, Shape],
) -> tuple[list[tuple[str, str | None]], dict[str, str]]:
    """Pair each weight with its bias; return the pairs and the doubtful vectors."""
    layers: list[tuple[str, str | None]] = []
    vectors: list[list[str]] = []
    loose: dict[str, str] = {}
    for name, shape in shapes.items():
        if math.prod(shape) == 0:
            loose[name] = "it has no entries"
        elif len(shape) >= 2:
            layers.append((name, None))
            vectors.append([])
        elif layers:
            vectors[-1].append(name)
        else:
            loose[name] = "no weight stands before it"
    for index, (weight, _) in enumerate(layers):
        bias = _bias_of(weight, vectors[index], shapes)
        layers[index] = (weight, bias)
        for name in vectors[index]:
            if name != bias:
                loose[name] = (
                    f"its shape does not tell whether it is the bias of {weight!r} "
                    "or belongs to another layer"
                )
    return layers, loose


def _bias_of(weight: str, vectors: list[str], shapes: dict[str, Shape]) -> str | None:
    """Return the vector that is certainly the bias of `weight`, if there is one."""
    width = shapes[weight][:1]
    prefix, dot, leaf = weight.rpartition(".")
    if dot and leaf == "weight":
        name = f"{prefix}.bias"
        return name if name in vectors and shapes[name] == width else None
    if len(vectors) == 1 and shapes[vectors[0]] == width:
        return vectors[0]
    return None


def _first_misfit(
    shapes: dict[str, Shape], layers: list[tuple[str, str | None]]
) -> str | None:
    """Return why the weights are no chain, or None if they are one."""
    for (before, _), (after, _) in itertools.pairwise(layers):
        width, inputs = shapes[before][0], shapes[after][1]
        flattens = len(shapes[before]) > 2 and len(shapes[after]) == 2
        if inputs == width or (flattens and inputs % width == 0):
            continue
        return (
            f"{after!r} of shape {shapes[after]} does not continue {before!r} of shape "
            f"{shapes[before]}, so the network is no chain and shapes cannot tell "
            "what is joined to what"
        )
    return None


def _rivals(shapes: dict[str, Shape], weights: list[str]) -> str | None:
    """Return why names speak against a chain, or None if they do not.

    Two modules that hold two weights or more each, and that take equally many inputs,
    may run in parallel (the scale and the shift of a flow, twin encoders, the members
    of an ensemble) as well as in sequence.
    """
    inputs: dict[str, dict[str, int]] = {}  # per module, what its children take
    counts: Counter[str] = Counter()
    for weight in weights:
        path = weight.split(".")[:-2]  # without the layer and its tensor
        for depth in range(len(path)):
            module, child = ".".join(path[:depth]), ".".join(path[: depth + 1])
            counts[child] += 1
            inputs.setdefault(module, {}).setdefault(child, shapes[weight][1])
    for children in inputs.values():
        known: dict[int, str] = {}
        for child, width in children.items():
            if counts[child] < 2:
                continue
            if width in known:
                return (
                    f"the modules {known[width]!r} and {child!r} both take {width} "
                    "inputs, so names and shapes do not tell whether one follows the "
                    "other or both read the same"
                )
            known[width] = child
    return None


class _Builder:
    """Collects groups, blocks and node parameters while a graph is read."""

    def __init__(self, shapes: dict[str, Shape], source: str) -> None:
        self.shapes = shapes
        self.source = source
        self.groups: list[NeuronGroup] = []
        self.blocks: list[WeightBlock] = []
        self.nodes: list[NodeParameter] = []

    def build(
        self, layers: list[tuple[str, str | None]], loose: dict[str, str]
    ) -> NeuralGraph:
        """Place a chain of layers, then each loose tensor by itself."""
        if layers:
            self._chain(layers)
        alone = {name: shape for name, shape in self.shapes.items() if name in loose}
        isolated = isolate(alone, first=len(self.groups))
        return NeuralGraph(
            shapes=self.shapes,
            groups=(*self.groups, *isolated.groups),
            blocks=(*self.blocks, *isolated.blocks),
            node_parameters=(*self.nodes, *isolated.node_parameters),
            symmetries=tuple(
                Symmetry((self._all(index),))
                for index, group in enumerate(self.groups)
                if group.role == "hidden"
            ),
            unplaced=tuple(
                Unplaced(parameter=name, reason=loose[name])
                for name in self.shapes
                if name in loose
            ),
            source=self.source,
        )

    def _chain(self, layers: list[tuple[str, str | None]]) -> None:
        source = self._group("inputs", self.shapes[layers[0][0]][1], "input", 0.0)
        for index, (weight, bias) in enumerate(layers, start=1):
            target_size, source_size, *kernel = self.shapes[weight]
            if source_size != self.groups[source].size:  # a flattened feature map
                kernel = [source_size // self.groups[source].size]
            last = index == len(layers)
            target = self._group(
                "outputs" if last else f"hidden {index}",
                target_size,
                "output" if last else "hidden",
                index / len(layers),
            )
            self._join(weight, source, target, tuple(kernel))
            if bias is not None:
                self._attach(bias, target)
            source = target

    def _group(self, name: str, size: int, role: Role, depth: float) -> int:
        group = NeuronGroup(name=name, size=size, role=role, depth=depth)
        self.groups.append(group)
        return len(self.groups) - 1

    def _all(self, group: int) -> Neurons:
        return Neurons(group, range(self.groups[group].size))

    def _join(self, name: str, source: int, target: int, cells: Shape) -> None:
        ends = self._all(source), self._all(target)
        view = View.contiguous(1, len(ends[1]), len(ends[0]), *cells)
        self.blocks.append(
            WeightBlock(parameter=name, source=ends[0], target=ends[1], view=view)
        )

    def _attach(self, name: str, group: int) -> None:
        neurons = self._all(group)
        view = View.contiguous(len(neurons))
        self.nodes.append(NodeParameter(parameter=name, neurons=neurons, view=view))
