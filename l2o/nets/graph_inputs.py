"""First states of neurons and edges from the features of their entries."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from l2o.graph import NeuralGraph, derived
from l2o.graph.encodings import encode_positions
from l2o.graph.layout import pad_cells

from .config import NGGNNConfig, NGTConfig
from .entries import Entries
from .feed_forward import AbstractEntryNet
from .net import NetSizes


class AbstractGraphNet(AbstractEntryNet):
    """A graph network's front end: first states of neurons and edges.

    An edge holds as many entries as its kernel has cells, and a neuron may hold
    several, too: they are folded into channels. A tensor's context is added to the
    states of its entries, and a neuron's position to its state.

    Args:
        config: width of a first state, and what a kernel is to it.
        sizes: channels in and out.
        edge_copies: how many concatenated copies of its channels an edge reads.
    """

    def __init__(
        self,
        config: NGGNNConfig | NGTConfig,
        sizes: NetSizes,
        *,
        edge_copies: int = 1,
    ) -> None:
        super().__init__()
        width, kernel = config.width, config.kernel
        self.width = width
        self.grid = None if kernel is None else (kernel, kernel)
        channels = sizes.num_features * (2 if kernel is None else kernel**2)
        self.edge_in = nn.Linear(edge_copies * channels, width)
        self.node_in = nn.Linear(channels, width)
        self.context_in = sizes.from_context(2 * width)
        self.edge_mix = nn.Linear(width, width)
        self.node_mix = nn.Linear(width, width)

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if a block of this graph has cells that do not fit."""
        positions(graph, self.width, self.edge_in.weight)
        if self.grid is not None:
            grids = [block.cells for block in graph.blocks]
            grids += [node.view.shape[1:] for node in graph.node_parameters]
            for cells in grids:
                pad_cells(torch.zeros(1, 1, prod(cells)), cells, self.grid)

    def encode_nodes(
        self, graph: NeuralGraph, entries: Entries, extra: Tensor
    ) -> Tensor:
        """Return the first state of every neuron, `[neuron, width]`.

        Args:
            graph: the optimizee's graph.
            entries: where features come from.
            extra: `[tensor + 1, width]`, what a tensor's context adds to its nodes.
        """
        nodes = positions(graph, self.width, self.edge_in.weight)
        for tile in entries.tiles.nodes:
            values = entries.read(tile)[:, None, None]
            summary = self.node_in(self.summarize(values, tile.cells)[:, 0, 0])
            new = self.node_mix(summary + extra.index_select(0, tile.owner))
            nodes = nodes.index_add(0, tile.neurons, new)
        return nodes

    def summarize(self, values: Tensor, cells: tuple[int, ...]) -> Tensor:
        """Fold the cell axis of `[part, target, source, cell, feature]` into channels.

        Args:
            values: features of entries.
            cells: the grid that the cell axis is.
        """
        if self.grid is None:
            channels = values.movedim(-1, 0)
            means = _mean_over_cells(channels), _mean_over_cells(channels.abs())
            return torch.cat(means).movedim(0, -1)
        padded = pad_cells(values.flatten(0, 1), cells, self.grid).flatten(2)
        return padded.unflatten(0, values.shape[:2])

    def context_parts(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a tensor adds to its nodes and edges: `[tensor + 1, width]`.

        The last row is for ties, which have no tensor.
        """
        if self.context_in is None:
            none = context.new_zeros(len(context) + 1, self.width)
            return none, none
        nodes, edges = F.pad(self.context_in(context), (0, 0, 0, 1)).chunk(2, dim=-1)
        return nodes, edges


def positions(graph: NeuralGraph, width: int, like: Tensor) -> Tensor:
    """Return the encoding of every neuron, `[neuron, width]`.

    Args:
        graph: the neural graph.
        width: number of channels, even and at least 6.
        like: a tensor whose dtype and device the encoding takes.
    """
    return _positions(graph, width, like.dtype, like.device)


@derived
def _positions(
    graph: NeuralGraph, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    groups = encode_positions(graph, width, torch.empty(0, dtype=dtype, device=device))
    return torch.cat(
        [
            item.expand(group.size, -1)
            for item, group in zip(groups, graph.groups, strict=True)
        ]
    )


def _mean_over_cells(values: Tensor) -> Tensor:
    """Return the mean over the last axis, by a product: faster than a reduction."""
    cells = values.shape[-1]
    return (
        values[..., 0] if cells == 1 else values @ values.new_full((cells,), 1 / cells)
    )
