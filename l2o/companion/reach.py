"""Which parameters lead to the outputs along the weights."""

import numpy as np

from l2o.graph import NeuralGraph, derived


@derived
def parameters_off_the_way(graph: NeuralGraph, ties: bool) -> tuple[str, ...]:
    """Return the parameters some of whose neurons lead to no output.

    Queries and keys are such: they meet in attention scores, which are no neurons.

    Args:
        graph: the architecture.
        ties: whether ties are edges, from source to target.
    """
    leads = [np.full(group.size, group.role == "output") for group in graph.groups]
    found = -1
    while (count := sum(int(own.sum()) for own in leads)) != found:
        found = count
        for block in reversed(graph.blocks):
            target = leads[block.target.group][list(block.target.index)]
            reached = target.reshape(block.parts, -1).any(1)
            per_part = len(block.source) // block.parts
            own = leads[block.source.group]
            own[list(block.source.index)] |= np.repeat(reached, per_part)
        for tie in graph.ties if ties else ():
            reached = leads[tie.target.group][list(tie.target.index)]
            leads[tie.source.group][list(tie.source.index)] |= reached
    return tuple(
        sorted(
            {
                block.parameter
                for block in graph.blocks
                if not leads[block.target.group][list(block.target.index)].all()
            }
        )
    )
