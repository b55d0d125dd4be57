"""How much of a network its graph places and lets move."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o import NeuralGraph
from l2o.graph import View, permute_parameters, random_permutations


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Shares, in [0, 1]."""

    placed: float
    """Of the parameter entries, whose place is certain."""
    neurons: float
    """Of the hidden neurons, that change places with others in some symmetry."""
    entries: float
    """Of the parameter entries, that some random permutations move at least once."""


def measure(graph: NeuralGraph, params: Mapping[str, Tensor], *, draws: int) -> Reach:
    """Measure the reach of a graph on parameters that differ from each other."""
    movable = [torch.zeros(group.size, dtype=torch.bool) for group in graph.groups]
    for symmetry in graph.symmetries:
        if len(symmetry.members[0]) > 1:
            for member in symmetry.members:
                movable[member.group][torch.tensor(tuple(member.index))] = True
    hidden = [
        found
        for group, found in zip(graph.groups, movable, strict=True)
        if group.role == "hidden"
    ]
    moved = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in params.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        orders = random_permutations(graph, generator)
        found = permute_parameters(graph, orders, params)
        for name, before in params.items():
            moved[name] |= found[name] != before
    return Reach(
        placed=graph.placed_share,
        neurons=float(torch.cat(hidden).double().mean()),
        entries=sum(int(m.sum()) for m in moved.values()) / graph.num_parameters,
    )


def count_places(graph: NeuralGraph) -> dict[str, Tensor]:
    """Count the places of every entry, aliases apart: `[numel]` a parameter."""
    counts = {
        name: torch.zeros(torch.Size(shape).numel(), dtype=torch.uint8)
        for name, shape in graph.shapes.items()
    }
    uses: list[tuple[str, View]] = [
        *(
            (block.parameter, block.view)
            for block in graph.blocks
            if not block.is_alias
        ),
        *((node.parameter, node.view) for node in graph.node_parameters),
    ]
    for name, view in uses:
        numbers = torch.arange(len(counts[name]))
        places = numbers.as_strided(view.shape, view.strides, view.offset).flatten()
        counts[name] += torch.bincount(places, minlength=len(numbers)).to(torch.uint8)
    return counts
