"""A graph in tiles: pieces of similar size that are computed one after another.

A deep network has hundreds of small tensors, a large one has tensors of millions of
entries. Small blocks of one shape are joined in one tile, so that the cost of
a step does not grow with the number of layers; a large block is cut into several, so
that what is computed at a time fits in a cache. Neurons are numbered over all groups.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, isqrt, prod

import torch
from torch import Tensor

from .caching import derived
from .linear_maps import fan_ins
from .neural_graph import NeuralGraph, Neurons

PACKED_ENTRIES = 2**13
"""Small blocks of one shape are joined up to this many entries."""

EDGE_ENTRIES = 8
"""An edge or a neuron counts as at least this many entries, for the work on its
state."""

Box = tuple[slice, slice, slice]
_WHOLE = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeTile:
    """Some blocks of one shape, a piece of one block, or ties."""

    number: int
    """Its running number among all tiles."""
    blocks: tuple[int, ...]
    """Which of `graph.blocks`, their parts one after another; empty for ties."""
    box: Box
    """Which parts, targets and sources of the block; whole if there are several."""
    is_owned: bool
    """Whether its entries are updated through it; not for aliases and ties."""
    cells: tuple[int, ...]
    """Grid of entries per edge."""
    target: Tensor
    """`[part, target]`, running number of each neuron."""
    source: Tensor
    """`[part, source]`, running number of each neuron."""
    owner: Tensor
    """`[part]`, place of its parameter in `graph.shapes`; past the last for ties."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of parts, targets per part, sources per part."""
        return len(self.target), self.target.shape[1], self.source.shape[1]

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole blocks."""
        return self.box == (_WHOLE, _WHOLE, _WHOLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTile:
    """Some node parameters with equally many cells, or a piece of one."""

    number: int
    """Its running number among all tiles."""
    items: tuple[int, ...]
    """Which of `graph.node_parameters`, one after another."""
    box: slice
    """Which neurons of it; whole if there are several."""
    cells: tuple[int, ...]
    """Grid of entries per neuron."""
    neurons: Tensor
    """`[row]`, running number of each neuron."""
    owner: Tensor
    """`[row]`, place of its parameter in `graph.shapes`."""

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole node parameters."""
        return self.box == _WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """A whole graph in tiles."""

    edges: tuple[EdgeTile, ...]
    """Owners and aliases, then ties."""
    nodes: tuple[NodeTile, ...]
    degree: Tensor
    """`[neuron]`, number of edges that touch each neuron, ties included."""

    @property
    def owned(self) -> list[EdgeTile | NodeTile]:
        """Tiles through which every entry is updated once: no aliases, no ties."""
        return [*(tile for tile in self.edges if tile.is_owned), *self.nodes]


@derived
def find_tiles(graph: NeuralGraph, device: torch.device, cut: int | None) -> Tiles:
    """Return the graph in tiles; computed once for the same arguments.

    Args:
        graph: the neural graph.
        device: of the tensors of neuron numbers.
        cut: most entries of a tile, an edge or neuron counting at least
            `EDGE_ENTRIES` (a single one may hold more); None leaves every block whole.
    """
    return _Tiler(graph, device, cut).tile()


class _Tiler:
    def __init__(
        self, graph: NeuralGraph, device: torch.device, cut: int | None
    ) -> None:
        self.graph = graph
        self.device = device
        self.cut = cut
        self.count = itertools.count()
        self.places = {name: place for place, name in enumerate(graph.shapes)}
        self.starts = [0]
        for group in graph.groups:
            self.starts.append(self.starts[-1] + group.size)

    def tile(self) -> Tiles:
        graph, maps = self.graph, fan_ins(self.graph)
        # A tile holds linear maps or others, never both: rules tell them apart.
        blocks = [
            (block.is_alias, block.parameter in maps, *block.view.shape[1:])
            for block in graph.blocks
        ]
        sizes = [block.view.numel for block in graph.blocks]
        edges = [
            tile for alike in _packed(blocks, sizes) for tile in self._edge_tiles(alike)
        ]
        if graph.ties:
            edges += self._tie_tiles()
        nodes = [
            (node.parameter in maps, *node.view.shape[1:])
            for node in graph.node_parameters
        ]
        sizes = [node.view.numel for node in graph.node_parameters]
        return Tiles(
            edges=tuple(edges),
            nodes=tuple(
                tile
                for alike in _packed(nodes, sizes)
                for tile in self._node_tiles(alike)
            ),
            degree=self._degree(),
        )

    def _edge_tiles(self, indices: tuple[int, ...]) -> Iterable[EdgeTile]:
        blocks = [self.graph.blocks[index] for index in indices]
        parts, targets, sources, *cells = blocks[0].view.shape
        boxes = [(_WHOLE, _WHOLE, _WHOLE)]
        if len(blocks) == 1 and self.cut is not None:
            most = self.cut // max(prod(cells), EDGE_ENTRIES)
            boxes = _boxes((parts, targets, sources), most)
        target = self._numbers(block.target for block in blocks).view(-1, targets)
        source = self._numbers(block.source for block in blocks).view(-1, sources)
        owner = self._owner((block.parameter, block.parts) for block in blocks)
        for box in boxes:
            yield EdgeTile(
                number=next(self.count),
                blocks=indices,
                box=box,
                is_owned=not blocks[0].is_alias,
                cells=tuple(cells),
                target=target[box[0], box[1]],
                source=source[box[0], box[2]],
                owner=owner[box[0]],
            )

    def _tie_tiles(self) -> Iterable[EdgeTile]:
        target = self._numbers(tie.target for tie in self.graph.ties)
        source = self._numbers(tie.source for tie in self.graph.ties)
        most = len(target) if self.cut is None else self.cut // EDGE_ENTRIES
        for rows in _ranges(len(target), most):
            yield EdgeTile(
                number=next(self.count),
                blocks=(),
                box=(_WHOLE, _WHOLE, _WHOLE),
                is_owned=False,
                cells=(),
                target=target[rows, None],
                source=source[rows, None],
                owner=torch.full_like(target[rows], len(self.graph.shapes)),
            )

    def _node_tiles(self, indices: tuple[int, ...]) -> Iterable[NodeTile]:
        nodes = [self.graph.node_parameters[index] for index in indices]
        neurons = self._numbers(node.neurons for node in nodes)
        owner = self._owner((node.parameter, len(node.neurons)) for node in nodes)
        boxes = [_WHOLE]
        if len(nodes) == 1 and self.cut is not None:
            most = self.cut // max(nodes[0].num_cells, EDGE_ENTRIES)
            boxes = _ranges(len(neurons), most)
        for box in boxes:
            yield NodeTile(
                number=next(self.count),
                items=indices,
                box=box,
                cells=nodes[0].view.shape[1:],
                neurons=neurons[box],
                owner=owner[box],
            )

    def _degree(self) -> Tensor:
        degree = torch.zeros(self.starts[-1], device=self.device)
        for block in self.graph.blocks:
            _, targets, sources = block.view.shape[:3]
            degree[self._numbers([block.target])] += sources
            degree[self._numbers([block.source])] += targets
        for tie in self.graph.ties:
            degree[self._numbers([tie.target])] += 1
            degree[self._numbers([tie.source])] += 1
        return degree

    def _numbers(self, selections: Iterable[Neurons]) -> Tensor:
        """Return the running number of each neuron, one selection after another."""
        found = []
        for item in selections:
            index, start = item.index, self.starts[item.group]
            found.append(
                torch.arange(index.start, index.stop, index.step, device=self.device)
                if isinstance(index, range)
                else torch.tensor(index, dtype=torch.int64, device=self.device)
            )
            found[-1] += start
        return torch.cat(found)

    def _owner(self, owners: Iterable[tuple[str, int]]) -> Tensor:
        return torch.cat(
            [
                torch.full((count,), self.places[name], device=self.device)
                for name, count in owners
            ]
        )


def _packed(
    shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]
) -> Iterable[tuple[int, ...]]:
    """Collect the places of equal shapes, up to `PACKED_ENTRIES` entries together."""
    runs: defaultdict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    filled: dict[tuple[int, ...], int] = {}
    for index, (shape, size) in enumerate(zip(shapes, sizes, strict=True)):
        if shape not in filled or filled[shape] + size > PACKED_ENTRIES:
            runs[shape].append([])
            filled[shape] = 0
        runs[shape][-1].append(index)
        filled[shape] += size
    return (tuple(run) for found in runs.values() for run in found)


def _boxes(shape: tuple[int, int, int], most: int) -> list[Box]:
    """Cut `[part, target, source]` into pieces of at most `most` edges.

    Pieces of one part are nearly square, so that they touch few neurons.
    """
    parts, targets, sources = shape
    if parts * targets * sources <= most:
        return [(_WHOLE, _WHOLE, _WHOLE)]
    if targets * sources <= most:
        return [
            (p, _WHOLE, _WHOLE) for p in _ranges(parts, most // (targets * sources))
        ]
    width = min(sources, max(1, isqrt(max(most, 1))))
    height = min(targets, max(1, most // width))
    width = min(sources, max(1, most // height))
    return [
        (p, t, s)
        for p in _ranges(parts, 1)
        for t in _ranges(targets, height)
        for s in _ranges(sources, width)
    ]


def _ranges(length: int, most: int) -> list[slice]:
    """Cut a length into the fewest near-equal pieces of at most `most`, at least 1."""
    count = max(1, ceil(length / max(most, 1)))
    if count == 1:
        return [_WHOLE]
    bounds = [length * index // count for index in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]
