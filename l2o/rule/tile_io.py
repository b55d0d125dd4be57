"""All entries of all parameters, tile by tile: features out, updates in.

This is the only place where directions become updates, whatever mixes them:
a network (`Rule.forward`) or a schedule (the teacher of meta-training).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.graph import Blocks, NeuralGraph, from_blocks, to_blocks
from l2o.graph.tiles import EdgeTile, NodeTile, find_tiles
from l2o.nets.fast_ops import new_empty, sum_of_squares
from l2o.nets.thread_map import thread_map

from .directions import Directions, DirectionSet, Values
from .features import Features
from .head import Head
from .state import TINY, ParameterState, Reading, State, Tensors, constant

KEPT_ENTRIES = 2**17
"""Networks of at most this many entries keep all that is computed, whatever the memory
limit."""


@dataclass(slots=True)
class Known:
    """What is known of a tile's entries."""

    values: Values
    directions: Directions | None
    features: Tensor | None = None


class Written(NamedTuple):
    """Values written so far, by the number of the block or node parameter."""

    edges: dict[int, Tensor]
    nodes: dict[int, Tensor]


class TileIO:
    """What is read and written in one step, tile by tile.

    Args:
        reading: graph, parameters, gradients and state.
        directions: what the head mixes.
        head: what outputs mean.
        features: what a network reads; None where nothing is read.
        dtype: of what is read.
        cut: most entries of a tile; None leaves every block whole.
        memory_limit: bytes for edge states. None keeps whatever is computed and writes
            nothing in place, as autograd needs it.
    """

    def __init__(
        self,
        reading: Reading,
        *,
        directions: DirectionSet,
        head: Head,
        features: Features | None,
        dtype: torch.dtype,
        cut: int | None,
        memory_limit: int | None,
    ) -> None:
        graph, params, grads, state = reading
        some = next(iter(params.values()))
        self.memory_limit = memory_limit
        self.tiles = find_tiles(graph, some.device, cut)
        self._graph = graph
        self._params = params
        self._features = features
        self._directions = directions
        self._head = head
        self._uses_directions = head.uses_directions or (
            features is not None and features.uses_directions
        )
        self._dtype = dtype
        self._known: dict[int, Known] = {}
        self._lasts: dict[int, dict[int, Known]] = {}
        is_small = graph.num_parameters <= KEPT_ENTRIES
        self._keeps_all = memory_limit is None or is_small
        self._updates = Written({}, {})
        self._momenta = to_blocks(
            graph, _each(state, lambda item: item["momenta"].movedim(0, -1))
        )
        self._others = [
            to_blocks(graph, tensors)
            for tensors in (params, grads, _each(state, lambda i: i["second_moment"]))
        ]
        found = []
        if self._uses_directions:
            found = directions.prepare(graph, grads, state)
        # Where nothing was prepared, any values of the right shape serve.
        self._prepared = [
            (frozenset(own), to_blocks(graph, {**params, **own})) if own else None
            for own in found
        ]
        self._units = constant([*head.units(graph).values()], some)[None]
        steps = torch.stack([state[name]["step"] for name in graph.shapes])
        self._steps = steps.to(some.dtype)
        self._ages = directions.averages.ages(self._steps)
        self._scales = self._measure()

    @property
    def context(self) -> Tensor:
        """What the entries of a tensor share, `[tensor, num_context]`."""
        assert self._features is not None
        shapes = list(self._graph.shapes.values())
        context = self._features.context(self._scales, self._steps, shapes)
        return context.to(self._dtype)

    def read(self, tile: EdgeTile | NodeTile) -> Tensor:
        """Return the features of a tile's entries, `[..., cell, feature]`."""
        known = self._look_up(tile)
        if known.features is None:
            assert self._features is not None
            scales = _spread(self._scales, tile, known.values.main)
            features = self._features(known.values, known.directions, scales)
            known.features = features.movedim(0, -1).to(self._dtype)
        return known.features

    def write(self, tile: EdgeTile | NodeTile, outputs: Tensor) -> None:
        """Turn outputs, `[..., cell, output]`, into updates."""
        known = self._look_up(tile)
        outputs = outputs.to(known.values.main.dtype)
        unit = _spread(self._units, tile, known.values.main)[0]
        update = self._head(outputs, known.directions, unit)
        self._put(self._updates, tile, update)

    def write_all(self, outputs: Tensors) -> None:
        """Write outputs that are known beforehand, tile by tile.

        Args:
            outputs: name to `[output, *shape]`, of every parameter.
        """
        graph = self._graph
        laid = to_blocks(
            graph, {name: outputs[name].movedim(0, -1) for name in graph.shapes}
        )

        def write(tile: EdgeTile | NodeTile) -> None:
            rows = _piece(laid, tile).movedim(-1, 0).to(self._steps.dtype)
            # Each output in one piece: the head sums over them faster, and as it does
            # over directions.
            self.write(tile, rows.contiguous().movedim(0, -1))

        thread_map(write, self.tiles.owned, self._steps.device)

    def updates(self) -> dict[str, Tensor]:
        """Return what was written, one tensor per parameter in its own dtype."""
        found = self._collected(self._updates)
        return {
            name: found[name].to(param.dtype) for name, param in self._params.items()
        }

    def _put(self, written: Written, tile: EdgeTile | NodeTile, values: Tensor) -> None:
        """Put a tile's values, `[..., cell, *features]`, where they belong."""
        laid = self._others[0]
        if isinstance(tile, NodeTile):
            sizes = [len(self._graph.node_parameters[i].neurons) for i in tile.items]
            place = (tile.box,)
            found, owners, whole = written.nodes, tile.items, laid.nodes
        else:
            sizes = [self._graph.blocks[i].parts for i in tile.blocks]
            place = tile.box
            found, owners, whole = written.edges, tile.blocks, laid.edges
        if tile.is_whole:
            found.update(zip(owners, values.split(sizes), strict=True))
            return
        (owner,) = owners
        shape = whole[owner].shape
        shape = *shape, *values.shape[len(shape) :]
        # Threads may race; `setdefault` keeps one.
        if owner not in found:
            found.setdefault(owner, new_empty(values, shape))
        found[owner][place] = values

    def _collected(self, written: Written) -> dict[str, Tensor]:
        """Return one tensor per parameter, `[*shape, *features]`."""
        graph = self._graph
        empty = self._steps[:0]
        blocks = Blocks(
            tuple(written.edges.get(i, empty) for i in range(len(graph.blocks))),
            tuple(written.nodes[i] for i in range(len(graph.node_parameters))),
        )
        return from_blocks(graph, blocks)

    def _measure(self) -> Tensor:
        """Return the root mean squares that the features need, `[scale, tensor]`."""
        count, features = len(self._graph.shapes), self._features
        num_scales = 0 if features is None else features.num_scales
        total = self._steps.new_zeros(num_scales, count)
        if features is None or not num_scales:
            return total

        def squares(tile: EdgeTile | NodeTile) -> Tensor:
            known = self._look_up(tile)
            parts = features.measured(known.values, known.directions)
            sums = [sum_of_squares(part.flatten(2)) for part in parts]
            return torch.cat(sums).to(total.dtype)

        tiles = self.tiles.owned
        sums = thread_map(squares, tiles, total.device)
        for tile, found in zip(tiles, sums, strict=True):
            total = total.index_add(1, tile.owner, found)
        numels = [float(max(prod(shape), 1)) for shape in self._graph.shapes.values()]
        return (total / constant(numels, total) + TINY).sqrt()

    def _look_up(self, tile: EdgeTile | NodeTile) -> Known:
        """Return what is known of a tile; the last one, or all, are remembered."""
        remembered = self._known if self._keeps_all else self._last()
        if tile.number not in remembered:
            values, directions = self._gather(tile), None
            if self._uses_directions:
                name = _first_parameter(self._graph, tile)  # a tile is of one kind
                prepared = [
                    _piece(own[1], tile) if own is not None and name in own[0] else None
                    for own in self._prepared
                ]
                directions = self._directions(values, prepared)
            if not self._keeps_all:
                remembered.clear()
            remembered[tile.number] = Known(values, directions)
        return remembered[tile.number]

    def _last(self) -> dict[int, Known]:
        """Return where this thread remembers the last tile."""
        is_compiling = torch.compiler.is_compiling()
        thread = 0 if is_compiling else threading.get_ident()
        return self._lasts.setdefault(thread, {})

    def _gather(self, tile: EdgeTile | NodeTile) -> Values:
        param, grad, second = (_piece(laid, tile) for laid in self._others)
        momenta = _piece(self._momenta, tile).movedim(-1, 0)
        return Values(
            torch.cat([param[None], grad[None], momenta]),
            second,
            _spread(self._ages, tile, momenta),
        )


def _each(
    state: State, channel: Callable[[ParameterState], Tensor]
) -> dict[str, Tensor]:
    """Return one channel of the state of every parameter, `[*shape, *features]`."""
    return {name: channel(item) for name, item in state.items()}


def _first_parameter(graph: NeuralGraph, tile: EdgeTile | NodeTile) -> str:
    """Return the name of the first parameter on a tile."""
    if isinstance(tile, NodeTile):
        return graph.node_parameters[tile.items[0]].parameter
    return graph.blocks[tile.blocks[0]].parameter


def _piece(laid: Blocks, tile: EdgeTile | NodeTile) -> Tensor:
    """Return what was laid on a tile, `[part, target, source, cell, ...]`."""
    if isinstance(tile, NodeTile):
        pieces = [laid.nodes[index] for index in tile.items]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0][tile.box]
    pieces = [laid.edges[index] for index in tile.blocks]
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0][tile.box]


def _spread(table: Tensor, tile: EdgeTile | NodeTile, like: Tensor) -> Tensor:
    """Return each part's column of `[number, tensor]`, to broadcast against `like`.

    Args:
        table: numbers per tensor.
        tile: whose parts are asked for.
        like: `[channel, *entries]`.
    """
    found = table.index_select(1, tile.owner)
    return found.reshape(*found.shape, *[1] * (like.ndim - 2))
