"""Edge states on the tiles of a graph, kept as far as memory allows."""

from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from torch import Tensor, nn
from typing_extensions import override

from l2o.graph.tiles import EdgeTile

from .entries import Entries
from .fast_ops import in_plain_eager, linear, new_empty
from .message_layer import Edges, MessageLayer
from .messages import reduced_messages
from .thread_map import iterate_in_threads

FirstStates = Callable[[EdgeTile], list[Tensor]]
"""From a tile to its states before the first layer, one per direction or one for both;
`[part, target, source, width]` each, and each may be overwritten."""


class TileStates(Edges):
    """Edge states of all tiles, each updated when it is needed.

    States are kept as long as the entries' memory limit allows; the others are
    recomputed from the features, through all layers so far.

    Args:
        entries: whose tiles.
        first: what the states start as.
        width: channels of a state.
        count: states per edge, 1 or 2.
        like: a tensor of the states' dtype and device.
    """

    def __init__(
        self,
        entries: Entries,
        first: FirstStates,
        *,
        width: int,
        count: int,
        like: Tensor,
    ) -> None:
        self.entries = entries
        self.first = first
        self.degree = entries.tiles.degree
        self.is_pure = entries.memory_limit is None
        self.shape = count, width
        self.keeps = self._tiles_to_keep(like.element_size())
        self.layers: list[tuple[MessageLayer, Tensor, Tensor]] = []
        self.kept: dict[int, tuple[int, list[Tensor]]] = {}
        self.memory = self._allocate(like)

    @override
    def messages(
        self, layer: MessageLayer, receive: list[Tensor], send: list[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        tiles = self.entries.tiles.edges
        modulate = _modulation(layer.modulations)

        def reduce(index: int) -> list[tuple[Tensor, Tensor]]:
            tile = tiles[index]
            forward, backward = modulate(self.get(index))
            ends = at_targets(receive[0], tile), at_sources(send[0], tile)
            along = reduced_messages(forward, *ends, 2)
            ends = at_sources(receive[-1], tile), at_targets(send[-1], tile)
            return [along, reduced_messages(backward, *ends, 1)]

        device = receive[0].device
        found = iterate_in_threads(reduce, range(len(tiles)), device)
        for tile, (along, against) in zip(tiles, found, strict=True):
            yield tile.target, *along
            yield tile.source, *against

    @override
    def follow(self, layer: MessageLayer, source: Tensor, target: Tensor) -> None:
        self.layers.append((layer, source, target))

    def get(self, index: int) -> list[Tensor]:
        """Return a tile's states, `[part, target, source, width]` per direction."""
        states = self._brought_up(index)
        if index in self.keeps:
            states = self._stored(index, states)
            self.kept[index] = len(self.layers), states
        return states

    def pop(self, index: int) -> list[Tensor]:
        """Return a tile's states for the last time and release their memory."""
        states = self._brought_up(index)
        self.kept.pop(index, None)
        return states

    def _brought_up(self, index: int) -> list[Tensor]:
        """Return a tile's states after all layers so far."""
        tile = self.entries.tiles.edges[index]
        depth, states = self.kept.get(index) or (0, self.first(tile))
        for layer, source, target in self.layers[depth:]:
            states = [
                layer.update_edge(
                    state,
                    at_sources(source, tile) + at_targets(target, tile)
                    if direction == 0
                    else at_targets(source, tile) + at_sources(target, tile),
                )
                for direction, state in enumerate(states)
            ]
        return states

    def _stored(self, index: int, states: list[Tensor]) -> list[Tensor]:
        """Return a tile's states in the memory that is set aside for them."""
        if index not in self.memory:
            return states
        for own, state in zip(self.memory[index], states, strict=True):
            if own.data_ptr() != state.data_ptr():
                own.copy_(state)
        return self.memory[index]

    def _allocate(self, like: Tensor) -> dict[int, list[Tensor]]:
        """Return one piece of memory for all states that are kept, by tiles.

        States allocated one by one lie between what every tile allocates and frees, and
        the holes that this leaves can take as much memory again as the states. With
        autograd, compiled or under `vmap` nothing is set aside: no tensor may be
        copied over there.
        """
        if self.is_pure or not in_plain_eager():
            return {}
        tiles, (count, width) = self.entries.tiles.edges, self.shape
        shapes = {
            index: (count, *tiles[index].shape, width) for index in sorted(self.keeps)
        }
        sizes = [prod(shape) for shape in shapes.values()]
        pieces = new_empty(like, [sum(sizes)]).split(sizes)
        return {
            index: list(piece.view(shape))
            for (index, shape), piece in zip(shapes.items(), pieces, strict=True)
        }

    def _tiles_to_keep(self, bytes_per_number: int) -> set[int]:
        """Return the tiles whose states fit the memory limit, the first ones first."""
        room, tiles = self.entries.memory_limit, self.entries.tiles.edges
        if room is None:
            return set(range(len(tiles)))
        bytes_per_edge = prod(self.shape) * bytes_per_number
        keeps = set()
        for index, tile in enumerate(tiles):
            size = prod(tile.shape) * bytes_per_edge
            if size <= room:
                keeps.add(index)
                room -= size
        return keeps


def _modulation(
    maps: Sequence[nn.Linear],
) -> Callable[[list[Tensor]], list[tuple[Tensor, Tensor]]]:
    """Return what makes scale and shift of messages along and against edges."""
    weight = torch.cat([layer.weight for layer in maps])
    bias = torch.cat([layer.bias for layer in maps])

    def modulate(states: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        found = [linear(state, weight, bias) for state in states]
        parts = [part for both in found for part in both.chunk(2 * len(maps), -1)]
        return [(parts[0], parts[1]), (parts[2], parts[3])]

    return modulate


def at_targets(nodes: Tensor, tile: EdgeTile) -> Tensor:
    """Return the states of each edge's target, to broadcast.

    Args:
        nodes: `[neuron, width]`.
        tile: which edges.

    Returns:
        `[part, target, 1, width]`.
    """
    found = nodes.index_select(0, tile.target.flatten())
    return found.reshape(*tile.target.shape, 1, -1)


def at_sources(nodes: Tensor, tile: EdgeTile) -> Tensor:
    """Return the states of each edge's source, `[part, 1, source, width]`."""
    found = nodes.index_select(0, tile.source.flatten())
    return found.reshape(len(tile.source), 1, tile.source.shape[1], -1)
