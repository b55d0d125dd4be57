"""Renumber the neurons of a network: its parameters move, its function stays."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .layout import Blocks, from_blocks, to_blocks
from .neural_graph import NeuralGraph, Neurons, WeightBlock


def random_permutations(graph: NeuralGraph, generator: torch.Generator) -> list[Tensor]:
    """Draw one permutation for each of the graph's symmetries and compose them.

    Args:
        graph: the neural graph.
        generator: where the random numbers come from.

    Returns:
        For each group `[neuron]`: which neuron moves to each place. The identity where
        no symmetry touches the group.

    Example:
        >>> import l2o
        >>> from torch import nn
        >>> graph = l2o.neural_graph(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)))
        >>> generator = torch.Generator().manual_seed(0)
        >>> [sorted(order.tolist()) for order in random_permutations(graph, generator)]
        [[0, 1], [0, 1, 2, 3], [0]]
    """
    orders = [torch.arange(group.size) for group in graph.groups]
    for symmetry in graph.symmetries:
        shuffled = torch.randperm(len(symmetry.members[0]), generator=generator)
        moved: dict[int, Tensor] = {}
        for member in symmetry.members:
            index = torch.tensor(tuple(member.index))
            size = graph.groups[member.group].size
            order = moved.setdefault(member.group, torch.arange(size))
            order[index] = index[shuffled]
        for group, order in moved.items():
            orders[group] = orders[group][order]
    return orders


def permute_parameters(
    graph: NeuralGraph, permutations: Sequence[Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the parameters of the network with its neurons renumbered.

    The same call renumbers gradients, momenta and updates. Where the permutations come
    from the graph's symmetries, the network computes what it did before.

    Args:
        graph: the neural graph.
        permutations: for each group `[neuron]`, which neuron moves to each place, as
            `random_permutations` returns.
        tensors: name to `[*shape, *features]`, for every parameter of the graph.

    Returns:
        New tensors of the same shapes.

    Raises:
        ValueError: if a permutation takes a neuron out of its block or part, moves the
            ends of a part differently, or leaves tied weights in disagreement.
    """
    places = [order.to("cpu").tolist() for order in permutations]
    laid = to_blocks(graph, tensors)
    edges = []
    for block, values in zip(graph.blocks, laid.edges, strict=True):
        targets = _moved(places, block.target, block.parts, block.parameter)
        sources = _moved(places, block.source, block.parts, block.parameter)
        edges.append(_move_edges(block, values, targets, sources))
    nodes = []
    for node, values in zip(graph.node_parameters, laid.nodes, strict=True):
        _, rows = _moved(places, node.neurons, 1, node.parameter)
        nodes.append(values[rows[0].to(values.device)])
    found = from_blocks(graph, Blocks(tuple(edges), tuple(nodes)))
    again = to_blocks(graph, found)
    for block, moved, expected in zip(graph.blocks, again.edges, edges, strict=True):
        if not torch.equal(moved, expected):
            raise ValueError(
                "permute_parameters needs tied weights to move alike; got permutations "
                f"under which two uses of {block.parameter!r} disagree. Give the "
                "groups at both uses the same permutation (one Symmetry)."
            )
    return found


def _moved(
    places: list[list[int]], neurons: Neurons, parts: int, name: str
) -> tuple[Tensor, Tensor]:
    """Return what moves to each place of a selection.

    Returns:
        `[part]`, the part that each part takes; and `[part, place]`, where in that part
        the neuron stood.
    """
    order, size = places[neurons.group], len(neurons) // parts
    where = {number: place for place, number in enumerate(neurons.index)}
    olds = [where.get(order[number], -1) for number in neurons.index]
    old = torch.tensor(olds, dtype=torch.int64).view(parts, size)
    part = old // max(size, 1)
    if -1 in olds or (part != part[:, :1]).any():
        raise ValueError(
            "permute_parameters needs permutations that keep each neuron in its block "
            f"and part; got one that moves a neuron of {name!r} out. Permute within "
            "the parts, or all the parts whole."
        )
    return part[:, 0] if size else part.new_zeros(parts), old % max(size, 1)


def _move_edges(
    block: WeightBlock,
    values: Tensor,
    targets: tuple[Tensor, Tensor],
    sources: tuple[Tensor, Tensor],
) -> Tensor:
    """Permute `[part, target, source, cell, ...]` along its first three axes."""
    (part, rows), (other, columns) = targets, sources
    if not torch.equal(part, other):
        raise ValueError(
            "permute_parameters needs permutations that move both ends of a part "
            f"alike; got parts of {block.parameter!r} whose targets come from "
            f"{part.tolist()} and whose sources from {other.tolist()}. Give the groups "
            "at both ends the same permutation (one Symmetry)."
        )
    return values[
        part.to(values.device)[:, None, None],
        rows.to(values.device)[:, :, None],
        columns.to(values.device)[:, None, :],
    ]
