"""Parameters whose place in the network is unknown, each as a piece of its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .neural_graph import NeuronGroup, Neurons, NodeParameter, View, WeightBlock


@dataclass(frozen=True, slots=True)
class Isolated:
    """Groups, blocks and node parameters that touch nothing else."""

    groups: tuple[NeuronGroup, ...]
    blocks: tuple[WeightBlock, ...]
    node_parameters: tuple[NodeParameter, ...]


def isolate(shapes: Mapping[str, tuple[int, ...]], *, first: int) -> Isolated:
    """Give each parameter two groups (axis 0 out, axis 1 in), or one for a vector.

    Args:
        shapes: name to shape.
        first: index that the first new group will have.
    """
    groups: list[NeuronGroup] = []
    blocks: list[WeightBlock] = []
    nodes: list[NodeParameter] = []

    def add(name: str, size: int) -> Neurons:
        groups.append(NeuronGroup(name=name, size=size, role="isolated", depth=0.5))
        return Neurons(first + len(groups) - 1, range(size))

    for name, shape in shapes.items():
        if len(shape) < 2:
            neurons = add(name, math.prod(shape))
            view = View.contiguous(len(neurons))
            nodes.append(NodeParameter(parameter=name, neurons=neurons, view=view))
            continue
        target = add(f"{name} (dim 0)", shape[0])
        source = add(f"{name} (dim 1)", shape[1])
        view = View.contiguous(1, *shape)
        blocks.append(
            WeightBlock(parameter=name, source=source, target=target, view=view)
        )
    return Isolated(tuple(groups), tuple(blocks), tuple(nodes))
