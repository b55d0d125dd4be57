"""All entries of all parameters, tile by tile: features out, updates in."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.graph import Blocks, NeuralGraph, from_blocks, to_blocks
from l2o.graph.linear_maps import fan_ins
from l2o.graph.tiles import EdgeTile, NodeTile, find_tiles
from l2o.nets.fast_ops import new_empty, sum_of_squares
from l2o.nets.thread_map import thread_map

from .config import HeadConfig
from .directions import Directions, Values, ages_of, directions_of
from .features import Features
from .head import apply_head, update_units
from .state import TINY, ParameterState, State, constant
from .whitening import whiten_momenta

KEPT_ENTRIES = 2**17
"""Entries of which everything is kept, however little memory is allowed: of a small
network nothing is computed twice."""


@dataclass(slots=True)
class Known:
    """What is known of a tile's entries."""

    values: Values
    directions: Directions | None
    features: Tensor | None = None


class Written(NamedTuple):
    """What was written so far, by the number of the block or node parameter."""

    edges: dict[int, Tensor]
    nodes: dict[int, Tensor]


class RuleEntries:
    """What a rule's network reads and writes in one step.

    Args:
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph.
        grads: name to gradient, for every parameter of the graph.
        state: name to state, the gradients in `grads` included.
        features: what the network reads.
        head: what its outputs mean.
        uses_directions: whether features or head need them.
        dtype: of the network's weights.
        cut: most entries of a tile; None leaves every block whole.
        memory_limit: bytes for edge states. None keeps whatever is computed and writes
            nothing in place, as autograd needs it.
        whitening_rows: most rows of a linear map that are whitened together.
        keeps_outputs: whether `outputs` shall return the network's numbers.
    """

    def __init__(
        self,
        graph: NeuralGraph,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
        *,
        features: Features,
        head: HeadConfig,
        uses_directions: bool,
        dtype: torch.dtype,
        cut: int | None,
        memory_limit: int | None,
        whitening_rows: int,
        keeps_outputs: bool = False,
    ) -> None:
        some = next(iter(params.values()))
        self.memory_limit = memory_limit
        self.tiles = find_tiles(graph, some.device, cut)
        self._graph = graph
        self._params = params
        self._features = features
        self._head = head
        self._uses_directions = uses_directions
        self._dtype = dtype
        self._known: dict[int, Known] = {}
        self._lasts: dict[int, dict[int, Known]] = {}
        is_small = graph.num_parameters <= KEPT_ENTRIES
        self._keeps_all = memory_limit is None or is_small
        self._updates = Written({}, {})
        self._outputs = Written({}, {}) if keeps_outputs else None
        self._momenta = to_blocks(
            graph, _each(state, lambda item: item["momenta"].movedim(0, -1))
        )
        self._others = [
            to_blocks(graph, tensors)
            for tensors in (params, grads, _each(state, lambda i: i["second_moment"]))
        ]
        # Only linear maps have one; for others, anything of the right shape will do.
        white = {}
        if uses_directions:
            white = whiten_momenta(graph, grads, state, whitening_rows)
        self._white = to_blocks(graph, {**params, **white})
        self._units = constant([*update_units(head, graph).values()], some)[None]
        steps = torch.stack([state[name]["step"] for name in graph.shapes])
        self._steps = steps.to(some.dtype)
        self._ages = ages_of(self._steps)
        self._scales = self._measure()

    @property
    def context(self) -> Tensor:
        """What the entries of a tensor share, `[tensor, num_context]`."""
        shapes = list(self._graph.shapes.values())
        context = self._features.context(self._scales, self._steps, shapes)
        return context.to(self._dtype)

    def read(self, tile: EdgeTile | NodeTile) -> Tensor:
        """Return the features of a tile's entries, `[..., cell, feature]`."""
        known = self._look_up(tile)
        if known.features is None:
            scales = _spread(self._scales, tile, known.values.main)
            features = self._features(known.values, known.directions, scales)
            known.features = features.movedim(0, -1).to(self._dtype)
        return known.features

    def write(self, tile: EdgeTile | NodeTile, outputs: Tensor) -> None:
        """Turn the network's numbers, `[..., cell, output]`, into updates."""
        known = self._look_up(tile)
        outputs = outputs.to(known.values.main.dtype)
        unit = _spread(self._units, tile, known.values.main)[0]
        if self._outputs is not None:
            self._put(self._outputs, tile, outputs.to(torch.bfloat16))
        update = apply_head(self._head, outputs, known.directions, unit)
        self._put(self._updates, tile, update)

    def updates(self) -> dict[str, Tensor]:
        """Return what was written, as one tensor a parameter in its own dtype."""
        found = self._collected(self._updates)
        return {
            name: found[name].to(param.dtype) for name, param in self._params.items()
        }

    def outputs(self) -> dict[str, Tensor]:
        """Return the network's numbers, `[output, *shape]` a parameter in bfloat16."""
        assert self._outputs is not None
        found = self._collected(self._outputs)
        return {
            name: value.movedim(-1, 0).contiguous() for name, value in found.items()
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
        # Two threads may come here at once; one of the two new tensors stays.
        if owner not in found:
            found.setdefault(owner, new_empty(values, shape))
        found[owner][place] = values

    def _collected(self, written: Written) -> dict[str, Tensor]:
        """Return one tensor a parameter, `[*shape, *features]`."""
        graph = self._graph
        empty = self._steps[:0]
        blocks = Blocks(
            tuple(written.edges.get(i, empty) for i in range(len(graph.blocks))),
            tuple(written.nodes[i] for i in range(len(graph.node_parameters))),
        )
        return from_blocks(graph, blocks)

    def _measure(self) -> Tensor:
        """Return the root mean squares that the features need, `[scale, tensor]`."""
        count = len(self._graph.shapes)
        total = self._steps.new_zeros(self._features.num_scales, count)
        if not self._features.num_scales:
            return total

        def squares(tile: EdgeTile | NodeTile) -> Tensor:
            known = self._look_up(tile)
            parts = self._features.measured(known.values, known.directions)
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
                white = None
                if _is_map(self._graph, tile):
                    white = _piece(self._white, tile)
                directions = directions_of(values, white)
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


def _is_map(graph: NeuralGraph, tile: EdgeTile | NodeTile) -> bool:
    """Whether a tile's parameters are linear maps; a tile is of one kind."""
    owner = (
        graph.node_parameters[tile.items[0]]
        if isinstance(tile, NodeTile)
        else graph.blocks[tile.blocks[0]]
    )
    return owner.parameter in fan_ins(graph)


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
        table: numbers a tensor.
        tile: whose parts are asked for.
        like: `[channel, *entries]`.
    """
    found = table.index_select(1, tile.owner)
    return found.reshape(*found.shape, *[1] * (like.ndim - 2))
