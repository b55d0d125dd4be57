"""NG-GNN on a flat list of edges, as a user of PyTorch Geometric would write it.

The same network as `NGGNNNet` with the same weights and the same numbers, but its
layers run edge by edge (`pyg_layer`) and the per-parameter network reads one row per
entry. The dense blocks are checked and timed against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.graph import NeuralGraph
from l2o.graph.tiles import Tiles

from .entries import Entries
from .feed_forward import FeedForward
from .gnn import NGGNNNet
from .pyg_layer import MessageConv, activate


@dataclass(frozen=True, slots=True)
class EdgeList:
    """A neural graph edge by edge, one tile after another, ties last."""

    edge_index: Tensor
    """`[2, edge]`: running numbers of source and target."""
    owner: Tensor
    """`[edge]`: place of its parameter among all, past the last for ties."""
    entry_edge: Tensor
    """`[entry]`: the edge of every weight entry, aliases included."""

    @classmethod
    def of(cls, tiles: Tiles) -> "EdgeList":
        """Write out the edges of a graph."""
        like = tiles.degree.new_zeros(0, dtype=torch.int64)
        edges, owners, entries, count = [like.new_zeros(2, 0)], [like], [like], 0
        for tile in tiles.edges:
            source = tile.source[:, None, :].expand(tile.shape)
            target = tile.target[:, :, None].expand(tile.shape)
            owner = tile.owner[:, None, None].expand(tile.shape)
            edges.append(torch.stack([source.flatten(), target.flatten()]))
            owners.append(owner.flatten())
            if tile.blocks:
                own = torch.arange(count, count + prod(tile.shape), device=like.device)
                entries.append(own.repeat_interleave(prod(tile.cells)))
            count += prod(tile.shape)
        return cls(torch.cat(edges, dim=1), torch.cat(owners), torch.cat(entries))


class PyGNGGNNNet(nn.Module):
    """NG-GNN over an edge list: takes the place of the `NGGNNNet` that it is given.

    Args:
        net: the dense network; its weights are shared, not copied.

    Example:
        >>> import l2o
        >>> rule = l2o.Rule()
        >>> rule.net = PyGNGGNNNet(rule.net)
    """

    def __init__(self, net: NGGNNNet) -> None:
        super().__init__()
        self.net = net
        self.layers = [
            MessageConv(layer, both_ways=True) for layer in net.message_layers
        ]

    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the network cannot read a block of this graph."""
        self.net.check(graph)

    def zero_last(self) -> None:
        """Make every output zero, whatever the input."""
        self.net.zero_last()

    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read and write every entry, as `NGGNNNet` does."""
        tiles = entries.tiles
        edge_list = EdgeList.of(tiles)
        values = [entries.read(tile) for tile in tiles.edges if tile.blocks]
        for_nodes, for_edges = self.net.context_parts(context)
        nodes = self.net.encode_nodes(graph, entries, for_nodes)
        edges = self._encode_edges(edge_list, tiles, values, for_edges)
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, edge_list.edge_index)
        self._write_edges(edge_list, entries, values, context, edges[0])
        self.net.write_nodes(entries, context, nodes)

    def _encode_edges(
        self, edge_list: EdgeList, tiles: Tiles, values: list[Tensor], extra: Tensor
    ) -> list[Tensor]:
        net = self.net
        summaries = [
            net.summarize(value, tile.cells).flatten(0, 2)
            for tile, value in zip(tiles.edges, values, strict=False)
        ]
        ties = len(edge_list.owner) - sum(map(len, summaries))
        none = extra.new_zeros(ties, net.node_in.in_features)
        summary = torch.cat([*summaries, none])
        shared = extra[edge_list.owner]
        return [
            net.edge_mix(net.edge_in(item) + shared) for item in net.directed(summary)
        ]

    def _write_edges(
        self,
        edge_list: EdgeList,
        entries: Entries,
        values: list[Tensor],
        context: Tensor,
        edges: Tensor,
    ) -> None:
        if not values:
            return
        outputs = _per_entry(
            self.net.entry,
            torch.cat([value.flatten(0, 3) for value in values]),
            context[edge_list.owner[edge_list.entry_edge]],
            self.net.edge_out(edges)[edge_list.entry_edge],
        ).split([value[..., 0].numel() for value in values])
        for tile, value, output in zip(
            entries.tiles.edges, values, outputs, strict=False
        ):
            if tile.is_owned:
                entries.write(tile, output.reshape(*value.shape[:-1], -1))


def _per_entry(
    head: FeedForward, features: Tensor, context: Tensor, structure: Tensor
) -> Tensor:
    """Return what `head` does, `[entry, output]`, row by row.

    Args:
        head: the per-parameter network.
        features: `[entry, num_features]`.
        context: `[entry, num_context]`; ignored where the network takes none.
        structure: `[entry, num_structure]`.
    """
    inputs = [(features, head.first), (context, head.from_context)]
    inputs.append((structure, head.from_structure))
    used = [(values, layer) for values, layer in inputs if layer is not None]
    hidden = _map_concatenated(*map(list, zip(*used, strict=True)))
    for layer in head.linears:
        hidden = layer(activate(head.activation, hidden))
    return head.last(activate(head.activation, hidden))


def _map_concatenated(values: Sequence[Tensor], layers: Sequence[nn.Module]) -> Tensor:
    """Map concatenated rows by one linear map, whose parts the layers hold."""
    maps = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weight = torch.cat([layer.weight for layer in maps], dim=1)
    bias = sum(layer.bias for layer in maps if layer.bias is not None)
    return F.linear(torch.cat([*values], dim=-1), weight) + bias
