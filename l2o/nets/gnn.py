"""NG-GNN: message passing over a neural graph, on dense blocks.

A block is a full bipartite piece of the graph, so its edge states form one tensor
`[part, target, source, width]`, both end states enter by broadcasting, and messages are
reduced over one of its axes. Only neurons, of which there are far fewer than edges, are
gathered and scattered.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from l2o.graph import NeuralGraph
from l2o.graph.tiles import EdgeTile

from .config import NGGNNConfig
from .entries import Entries, at_owners
from .fast_ops import add
from .feed_forward import FeedForward
from .graph_inputs import AbstractGraphNet
from .message_layer import MessageLayer, ReadOut
from .net import NetSizes
from .thread_map import thread_map
from .tile_states import TileStates


class NGGNNNet(AbstractGraphNet):
    """NG-GNN from features laid on a neural graph to numbers per entry.

    Args:
        config: sizes and variants.
        sizes: channels in and out.

    Reference:
        Kofinas et al., 2024, sections 3 and 4.3. Differences: positions are keyed by
        role, so they do not shift with the number of inputs; biases read their own
        node; norms do not couple a batch.
    """

    def __init__(self, config: NGGNNConfig, sizes: NetSizes) -> None:
        width = config.width
        super().__init__(
            config,
            sizes,
            edge_copies=1 if config.directions == "own" else 3,
        )
        self.config = config
        self.layers = nn.ModuleList(
            message_layer(config, is_last=index == config.layers - 1)
            for index in range(config.layers)
        )
        self.edge_out = ReadOut(width)
        self.node_out = ReadOut(width)
        self.entry = FeedForward(config.head, sizes, num_structure=width)

    @property
    def message_layers(self) -> list[MessageLayer]:
        """The message-passing layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, MessageLayer)]

    @override
    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry and write its outputs."""
        for_nodes, for_edges = self.context_parts(context)
        nodes = self.encode_nodes(graph, entries, for_nodes)
        edges = self.edge_states(entries, for_edges)
        for layer in self.message_layers:
            nodes = layer(nodes, edges)
        self.write_edges(entries, context, edges)
        self.write_nodes(entries, context, nodes)

    def edge_states(self, entries: Entries, extra: Tensor) -> TileStates:
        """Return the edge states before the first layer.

        Args:
            entries: where features come from.
            extra: `[tensor + 1, width]`, what a tensor's context adds to its edges.
        """
        mix, read = self.edge_mix, self.edge_in
        weight, biases = mix.weight @ read.weight, mix(read.bias + extra)

        def first(tile: EdgeTile) -> list[Tensor]:
            if tile.blocks:
                summary = self.summarize(entries.read(tile), tile.cells)
            else:
                summary = biases.new_zeros(*tile.shape, self.node_in.in_features)
            bias = biases.index_select(0, tile.owner)[:, None, None]
            return [add(item @ weight.T, bias) for item in self.directed(summary)]

        return TileStates(
            entries,
            first,
            width=self.config.width,
            count=1 if self.config.directions == "own" else 2,
            like=biases,
        )

    def write_edges(self, entries: Entries, context: Tensor, edges: TileStates) -> None:
        """Write the outputs of all weights from the last edge states."""
        tiles = entries.tiles.edges

        def write(index: int) -> None:
            tile = tiles[index]
            structure = self.edge_out.begin(edges.pop(index)[0])[..., None, :]
            shared = at_owners(context, tile)
            features = entries.read(tile)
            outputs = self.entry(features, shared, structure, self.edge_out.end)
            entries.write(tile, outputs)

        owned = [index for index, tile in enumerate(tiles) if tile.is_owned]
        thread_map(write, owned, context.device)

    def write_nodes(self, entries: Entries, context: Tensor, nodes: Tensor) -> None:
        """Write the outputs of all node parameters from the last node states."""
        for tile in entries.tiles.nodes:
            structure = self.node_out(nodes.index_select(0, tile.neurons))[:, None]
            shared = at_owners(context, tile)
            entries.write(tile, self.entry(entries.read(tile), shared, structure))

    def directed(self, summary: Tensor) -> list[Tensor]:
        """Return the input of each edge state: one, or one per direction."""
        if self.config.directions == "own":
            return [summary]
        none = torch.zeros_like(summary)
        return [
            torch.cat([summary, none, summary], dim=-1),
            torch.cat([none, summary, summary], dim=-1),
        ]


def message_layer(config: NGGNNConfig, *, is_last: bool) -> MessageLayer:
    """Return a layer as a configuration describes it.

    Args:
        config: the network's configuration.
        is_last: the last layer has no norm and activation, unless `residual`.
    """
    has_norm = config.residual or not is_last
    return MessageLayer(
        config.width,
        activation=config.activation,
        norm=nn.LayerNorm(config.width) if has_norm else None,
        own_directions=config.directions == "own",
        residual_nodes=config.residual,
        residual_edges=config.residual,
    )
