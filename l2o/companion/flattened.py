"""Flattened feature maps as neurons of their own, one per channel and place."""

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from l2o.graph import (
    NeuralGraph,
    NeuronGroup,
    Neurons,
    Operation,
    Symmetry,
    Tie,
    View,
    WeightBlock,
    derived,
)

from .config import InputsConfig

_PLACES = "places"
"""Name of the note on a group whose neurons are channels at places."""


@derived
def virtual_layers(graph: NeuralGraph) -> NeuralGraph:
    """Return the graph with a virtual layer before each layer on a flattened map.

    Otherwise such a layer has an edge per channel with an entry for each place, like a
    kernel as large as the map. Here a neuron stands for each channel at each place: an
    edge of weight 1 joins it with its channel, and one of a single entry with each
    neuron of the layer. Neurons know their place by an embedding, for which
    `InputsConfig.num_places` has as many rows as a map has places.

    Args:
        graph: a trace, or what `layered_graph` returns.

    Returns:
        A graph of the same parameters; the same object for the same graph.

    Raises:
        ValueError: if the entries of a layer are in neither of the two orders, channel
            by channel or place by place.

    Example:
        >>> import l2o
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))
        >>> graph = virtual_layers(l2o.neural_graph(model, torch.zeros(1, 3, 6, 6)))
        >>> [group.size for group in graph.groups]
        [3, 4, 64, 2]

    Reference:
        Kofinas et al., 2024, appendix C.2, the second option.
    """
    flat = [
        number
        for number, block in enumerate(graph.blocks)
        if len(block.cells) and len(graph.shapes[block.parameter]) == 2
    ]
    groups, blocks = list(graph.groups), list(graph.blocks)
    ties, symmetries = list(graph.ties), list(graph.symmetries)
    for number in flat:
        block, here = blocks[number], len(groups)
        count = block.num_cells
        size, is_inner, view = _single_entries(block)
        groups.append(_layer(groups[block.source.group], block, size, is_inner))
        blocks[number] = replace(block, source=Neurons(here, range(size)), view=view)
        ties += [
            Tie(
                kind="move",
                source=block.source,
                target=Neurons(here, _at(place, count, size, is_inner)),
            )
            for place in range(count)
        ]
        symmetries = [
            _with_places(symmetry, block.source, here, count, size, is_inner)
            for symmetry in symmetries
        ]
    found = replace(
        graph,
        groups=tuple(groups),
        blocks=tuple(blocks),
        ties=tuple(ties),
        symmetries=tuple(symmetries),
    )
    return _outputs_last(found)


def num_places(graph: NeuralGraph) -> int:
    """Return how many places the largest virtual layer has; 0 without any."""
    return max((_places(group)[0] for group in graph.groups), default=0)


@derived
def place_rows(graph: NeuralGraph, config: InputsConfig) -> Tensor:
    """Return for each neuron its row in the table of places, one past for none.

    Raises:
        ValueError: if there are more places than rows.
    """
    rows = []
    for group in graph.groups:
        count, is_inner = _places(group)
        if count > config.num_places:
            raise ValueError(
                f"InputsConfig(num_places={config.num_places}) reads virtual layers of "
                f"at most that many places; got {count} in {group.name!r}. Raise "
                "num_places, or take what infer_config(graph) says."
            )
        numbers = torch.arange(group.size)
        if not count:
            rows.append(torch.full((group.size,), config.num_places))
        elif is_inner:
            rows.append(numbers % count)
        else:
            rows.append(numbers // (group.size // count))
    return torch.cat(rows)


def _places(group: NeuronGroup) -> tuple[int, bool]:
    """Return the number of places of a virtual layer, and whether they vary fastest."""
    for note in group.operations:
        if note.name == _PLACES:
            settings = dict(note.settings)
            return settings["count"], settings["is_inner"]
    return 0, True


def _single_entries(block: WeightBlock) -> tuple[int, bool, View]:
    """Return virtual neurons, whether places vary fastest, and single entries."""
    parts, targets, sources = block.view.shape[:3]
    count = block.num_cells
    of_part, of_target, of_source, *of_cells = block.view.strides
    steps = [prod(block.cells[axis + 1 :]) for axis in range(len(block.cells))]
    inner = of_cells[-1]
    is_even = [step * inner for step in steps] == of_cells
    if is_even and of_source == count * inner:
        is_inner, step = True, inner
    elif is_even and inner == sources * of_source:
        is_inner, step = False, of_source
    else:
        raise ValueError(
            "virtual_layers needs flattened maps whose entries run channel by channel "
            f"or place by place; got {block.parameter!r} with {block.view}. Read the "
            "graph as it is."
        )
    if parts != 1:
        raise ValueError(
            f"virtual_layers needs layers of one part; got {parts} in "
            f"{block.parameter!r}. Read the graph as it is."
        )
    size = sources * count
    strides = (of_part, of_target, step)
    return size, is_inner, View((1, targets, size), strides, block.view.offset)


def _layer(
    before: NeuronGroup, block: WeightBlock, size: int, is_inner: bool
) -> NeuronGroup:
    """Return the virtual layer."""
    settings = (("count", block.num_cells), ("is_inner", is_inner))
    return NeuronGroup(
        name=f"{block.parameter} (places)",
        size=size,
        role="hidden",
        depth=before.depth,
        operations=(Operation(name=_PLACES, settings=settings),),
    )


def _at(place: int, count: int, size: int, is_inner: bool) -> range:
    """Return the virtual neurons at one place, channel after channel."""
    if is_inner:
        return range(place, size, count)
    channels = size // count
    return range(place * channels, (place + 1) * channels)


def _with_places(
    symmetry: Symmetry,
    source: Neurons,
    here: int,
    count: int,
    size: int,
    is_inner: bool,
) -> Symmetry:
    """Let the virtual neurons of exchangeable channels move with them."""
    found = list(symmetry.members)
    order = {neuron: position for position, neuron in enumerate(source.index)}
    for member in symmetry.members:
        if member.group != source.group:
            continue
        if not all(neuron in order for neuron in member.index):
            continue
        for place in range(count):
            virtual = _at(place, count, size, is_inner)
            own = tuple(virtual[order[neuron]] for neuron in member.index)
            found.append(Neurons(here, own))
    return Symmetry(tuple(found))


def _outputs_last(graph: NeuralGraph) -> NeuralGraph:
    """Return the graph with each virtual layer behind the layer that it is made of."""
    before = {tie.target.group: tie.source.group for tie in graph.ties}
    keys = [
        (before[number], 1) if _places(group)[0] else (number, 0)
        for number, group in enumerate(graph.groups)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    numbers = {old: new for new, old in enumerate(order)}

    def moved(neurons: Neurons) -> Neurons:
        return replace(neurons, group=numbers[neurons.group])

    return replace(
        graph,
        groups=tuple(graph.groups[old] for old in order),
        blocks=tuple(
            replace(block, source=moved(block.source), target=moved(block.target))
            for block in graph.blocks
        ),
        node_parameters=tuple(
            replace(node, neurons=moved(node.neurons)) for node in graph.node_parameters
        ),
        ties=tuple(
            replace(tie, source=moved(tie.source), target=moved(tie.target))
            for tie in graph.ties
        ),
        symmetries=tuple(
            Symmetry(tuple(map(moved, symmetry.members)))
            for symmetry in graph.symmetries
        ),
    )
