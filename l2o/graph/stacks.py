"""Blocks of one size, side by side: what a network on the graph computes as one.

A deep network has hundreds of small tensors and few shapes. All neurons get one running
number; blocks of one shape, and node parameters of one shape, are stacked part after
part, so that the cost of a step does not grow with the number of layers.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import Blocks
from .neural_graph import Index, NeuralGraph, Neurons

STACK_ENTRIES = 2**13
"""Most entries that blocks are stacked to; a larger block stays alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeStack:
    """Some blocks of one shape, or all ties: edges `[part, target, source]`."""

    blocks: tuple[int, ...]
    """Which of `graph.blocks`, owners before aliases; empty for ties."""
    num_owned: int
    """Number of parts, from the first, whose entries are updated through this stack."""
    cells: tuple[int, ...]
    """Grid of entries an edge holds."""
    target: Tensor
    """`[part, target]`, running number of each neuron."""
    source: Tensor
    """`[part, source]`, running number of each neuron."""
    owner: Tensor
    """`[part]`, place of its parameter in `graph.shapes`; past the last for ties."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of parts, targets a part, sources a part."""
        return len(self.target), self.target.shape[1], self.source.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStack:
    """Some node parameters with equally many cells, neuron after neuron."""

    items: tuple[int, ...]
    """Which of `graph.node_parameters`."""
    cells: tuple[int, ...]
    """Grid of entries a neuron holds."""
    neurons: Tensor
    """`[row]`, running number of each neuron."""
    owner: Tensor
    """`[row]`, place of its parameter in `graph.shapes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks:
    """A whole graph in stacks."""

    edges: tuple[EdgeStack, ...]
    nodes: tuple[NodeStack, ...]
    degree: Tensor
    """`[neuron]`, number of edges that touch each neuron, ties included."""


@dataclass(frozen=True, slots=True)
class Stacked:
    """Values laid on the stacks of a graph, with any trailing feature axes.

    Attributes:
        edges: for each edge stack `[part, target, source, cell, *features]`.
        nodes: for each node stack `[row, cell, *features]`.
    """

    edges: tuple[Tensor, ...]
    nodes: tuple[Tensor, ...]


def find_stacks(graph: NeuralGraph, device: torch.device) -> Stacks:
    """Return the graph in stacks; computed once a graph and device.

    Args:
        graph: the neural graph.
        device: where the numbers of the neurons shall lie.
    """
    key = ("stacks", device)
    if key not in graph.derived:
        graph.derived[key] = _Stacker(graph, device).stack()
    return graph.derived[key]


def stack_values(stacks: Stacks, blocks: Blocks) -> Stacked:
    """Put the values of the blocks side by side; ties, which have none, get zeros."""
    (like, *_), features = (
        (blocks.edges, blocks.edges[0].shape[4:])
        if blocks.edges
        else (blocks.nodes, blocks.nodes[0].shape[2:])
    )
    edges = [
        _cat([blocks.edges[index] for index in stack.blocks])
        if stack.blocks
        else like.new_zeros(*stack.shape, 1, *features)
        for stack in stacks.edges
    ]
    nodes = [
        _cat([blocks.nodes[index] for index in stack.items]) for stack in stacks.nodes
    ]
    return Stacked(tuple(edges), tuple(nodes))


def unstack_values(graph: NeuralGraph, stacks: Stacks, values: Stacked) -> Blocks:
    """Return the values of each block: inverse of `stack_values`.

    Aliases, which `from_blocks` ignores, come back empty, and the edge values need
    hold only the owned parts of a stack.
    """
    edges: dict[int, Tensor] = {}
    for stack, value in zip(stacks.edges, values.edges, strict=True):
        owned = [i for i in stack.blocks if not graph.blocks[i].is_alias]
        sizes = [graph.blocks[index].parts for index in owned]
        pieces = value[: stack.num_owned].split(sizes) if owned else ()
        edges.update(zip(owned, pieces, strict=True))
        empty = value[:0]
        edges.update((i, empty) for i in stack.blocks if graph.blocks[i].is_alias)
    nodes: dict[int, Tensor] = {}
    for stack, value in zip(stacks.nodes, values.nodes, strict=True):
        sizes = [len(graph.node_parameters[index].neurons) for index in stack.items]
        nodes.update(zip(stack.items, value.split(sizes), strict=True))
    return Blocks(
        tuple(edges[index] for index in range(len(graph.blocks))),
        tuple(nodes[index] for index in range(len(graph.node_parameters))),
    )


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the first axis; one tensor is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


class _Stacker:
    def __init__(self, graph: NeuralGraph, device: torch.device) -> None:
        self.graph = graph
        self.device = device
        self.places = {name: place for place, name in enumerate(graph.shapes)}
        self.starts = [0]
        for group in graph.groups:
            self.starts.append(self.starts[-1] + group.size)

    def stack(self) -> Stacks:
        edges = [self._edge_stack(indices) for indices in self._alike_blocks()]
        if self.graph.ties:
            edges.append(self._tie_stack())
        nodes = [self._node_stack(indices) for indices in self._alike_nodes()]
        degree = torch.zeros(self.starts[-1], device=self.device)
        for stack in edges:
            _, targets, sources = stack.shape
            for ends, number in ((stack.target, sources), (stack.source, targets)):
                count = torch.full((ends.numel(),), float(number), device=self.device)
                degree.index_add_(0, ends.flatten(), count)
        return Stacks(edges=tuple(edges), nodes=tuple(nodes), degree=degree)

    def _alike_blocks(self) -> Iterable[list[int]]:
        """Group the blocks by shape, each group up to a number of entries."""
        alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, block in enumerate(self.graph.blocks):
            alike[block.view.shape[1:]].append(index)
        for indices in alike.values():
            sizes = [self.graph.blocks[index].view.numel for index in indices]
            for found in _packed(indices, sizes):
                yield sorted(found, key=lambda i: self.graph.blocks[i].is_alias)

    def _alike_nodes(self) -> Iterable[list[int]]:
        alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, node in enumerate(self.graph.node_parameters):
            alike[node.view.shape[1:]].append(index)
        for indices in alike.values():
            sizes = [self.graph.node_parameters[index].view.numel for index in indices]
            yield from _packed(indices, sizes)

    def _edge_stack(self, indices: list[int]) -> EdgeStack:
        blocks = [self.graph.blocks[index] for index in indices]
        _, targets, sources, *cells = blocks[0].view.shape
        return EdgeStack(
            blocks=tuple(indices),
            num_owned=sum(block.parts for block in blocks if not block.is_alias),
            cells=tuple(cells),
            target=self._numbers(block.target for block in blocks).view(-1, targets),
            source=self._numbers(block.source for block in blocks).view(-1, sources),
            owner=self._owner((block.parameter, block.parts) for block in blocks),
        )

    def _tie_stack(self) -> EdgeStack:
        target = self._numbers(tie.target for tie in self.graph.ties)
        return EdgeStack(
            blocks=(),
            num_owned=0,
            cells=(),
            target=target[:, None],
            source=self._numbers(tie.source for tie in self.graph.ties)[:, None],
            owner=torch.full_like(target, len(self.graph.shapes)),
        )

    def _node_stack(self, indices: list[int]) -> NodeStack:
        nodes = [self.graph.node_parameters[index] for index in indices]
        return NodeStack(
            items=tuple(indices),
            cells=nodes[0].view.shape[1:],
            neurons=self._numbers(node.neurons for node in nodes),
            owner=self._owner((node.parameter, len(node.neurons)) for node in nodes),
        )

    def _numbers(self, selections: Iterable[Neurons]) -> Tensor:
        """Return the running number of each neuron, one selection after another."""
        return torch.cat(
            [self._index(item.index) + self.starts[item.group] for item in selections]
        )

    def _index(self, index: Index) -> Tensor:
        if isinstance(index, range):
            return torch.arange(index.start, index.stop, index.step, device=self.device)
        return torch.tensor(index, dtype=torch.int64, device=self.device)

    def _owner(self, owners: Iterable[tuple[str, int]]) -> Tensor:
        return torch.cat(
            [
                torch.full((count,), self.places[name], device=self.device)
                for name, count in owners
            ]
        )


def _packed(indices: Sequence[int], sizes: Sequence[int]) -> Iterable[list[int]]:
    """Cut a list into runs of at most `STACK_ENTRIES` entries, or of one item."""
    run: list[int] = []
    filled = 0
    for index, size in zip(indices, sizes, strict=True):
        if run and filled + size > STACK_ENTRIES:
            yield run
            run, filled = [], 0
        run.append(index)
        filled += size
    if run:
        yield run
