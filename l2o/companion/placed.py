"""A graph without the parameters whose place is unknown."""

from dataclasses import replace

from l2o.graph import NeuralGraph, Neurons, derived


@derived
def placed_part(graph: NeuralGraph) -> NeuralGraph:
    """Return the graph without its unplaced parameters, such as a PReLU's only slope.

    Stack networks with it under the names that are left; nothing of the others is read.

    Args:
        graph: a trace.

    Returns:
        The graph; the same object for the same graph.

    Example:
        >>> import l2o, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2))
        >>> graph = l2o.neural_graph(model, torch.zeros(1, 3))
        >>> sorted(graph.shapes.keys() - placed_part(graph).shapes.keys())
        ['1.weight']
    """
    lost = {item.parameter for item in graph.unplaced}
    kept = [n for n, group in enumerate(graph.groups) if group.role != "isolated"]
    numbers = {old: new for new, old in enumerate(kept)}

    def moved(neurons: Neurons) -> Neurons:
        return replace(neurons, group=numbers[neurons.group])

    return replace(
        graph,
        shapes={n: shape for n, shape in graph.shapes.items() if n not in lost},
        groups=tuple(graph.groups[number] for number in kept),
        blocks=tuple(
            replace(block, source=moved(block.source), target=moved(block.target))
            for block in graph.blocks
            if block.parameter not in lost
        ),
        node_parameters=tuple(
            replace(node, neurons=moved(node.neurons))
            for node in graph.node_parameters
            if node.parameter not in lost
        ),
        ties=tuple(
            replace(tie, source=moved(tie.source), target=moved(tie.target))
            for tie in graph.ties
        ),
        symmetries=tuple(
            replace(symmetry, members=tuple(map(moved, symmetry.members)))
            for symmetry in graph.symmetries
            if all(member.group in numbers for member in symmetry.members)
        ),
        unplaced=(),
    )
