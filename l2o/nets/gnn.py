"""NG-GNN: message passing over a neural graph, on dense blocks.

A block is a full bipartite piece of the graph, so its edge states form one tensor
`[part, target, source, width]`, both end states enter by broadcasting, and messages are
reduced over one of its axes. Only neurons, of which there are far fewer than edges, are
gathered and scattered.
"""

from math import prod

import torch
from torch import Tensor, nn

from l2o.graph import NeuralGraph
from l2o.graph.tiles import EdgeTile

from .config import NGGNNConfig
from .entries import Entries, at_owners
from .fast_ops import add, is_alone, new_empty
from .feed_forward import FeedForward
from .graph_inputs import GraphInputs
from .inbox import Inbox
from .message_layer import MessageLayer, ReadOut, at_sources, at_targets
from .thread_map import side_by_side


class EdgeStates:
    """Edge states of all tiles, each brought up to date when it is asked for.

    States are kept as long as the entries' memory limit allows; those beyond are
    computed again from the features, through all layers so far.

    Args:
        net: the network.
        entries: where the features come from.
        extra: what a tensor's context adds to its edges, `[tensor + 1, width]`.
    """

    def __init__(self, net: "NGGNNNet", entries: Entries, extra: Tensor) -> None:
        self.net = net
        self.entries = entries
        self.keeps = self._tiles_to_keep()
        mix = net.edge_mix
        self.weight = mix.weight @ net.edge_in.weight
        self.bias = mix(net.edge_in.bias + extra)
        self.layers: list[tuple[MessageLayer, Tensor, Tensor]] = []
        self.kept: dict[int, tuple[int, list[Tensor]]] = {}
        self.places = self._places()

    def new_inbox(self) -> Inbox:
        """Return an empty inbox for all neurons."""
        is_pure = self.entries.memory_limit is None
        return Inbox(self.entries.tiles.degree, is_pure=is_pure)

    def follow(self, layer: MessageLayer, source: Tensor, target: Tensor) -> None:
        """Let the states pass through a layer, from what its neurons now say."""
        self.layers.append((layer, source, target))

    def get(self, index: int) -> list[Tensor]:
        """Return a tile's states, `[part, target, source, width]`, one a direction."""
        states = self._brought_up(index)
        if index in self.keeps:
            states = self._stored(index, states)
            self.kept[index] = len(self.layers), states
        return states

    def pop(self, index: int) -> list[Tensor]:
        """Return a tile's states for the last time; their memory is free then."""
        states = self._brought_up(index)
        self.kept.pop(index, None)
        return states

    def _brought_up(self, index: int) -> list[Tensor]:
        """Return a tile's states after all layers so far."""
        tile = self.entries.tiles.edges[index]
        depth, states = self.kept.get(index) or (0, self._first(tile))
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

    def _first(self, tile: EdgeTile) -> list[Tensor]:
        """Return the states before the first layer."""
        net = self.net
        if tile.blocks:
            summary = net.summarize(self.entries.read(tile), tile.cells)
        else:
            summary = self.bias.new_zeros(*tile.shape, net.node_in.in_features)
        bias = self.bias.index_select(0, tile.owner)[:, None, None]
        return [add(item @ self.weight.T, bias) for item in net.directed(summary)]

    def _stored(self, index: int, states: list[Tensor]) -> list[Tensor]:
        """Return a tile's states where they are kept."""
        if index not in self.places:
            return states
        for place, state in zip(self.places[index], states, strict=True):
            if place.data_ptr() != state.data_ptr():
                place.copy_(state)
        return self.places[index]

    def _places(self) -> dict[int, list[Tensor]]:
        """Return one piece of memory for all states that are kept, by tiles.

        States one by one would lie between what every tile allocates and frees, and the
        holes that this leaves can take as much again as the states. With autograd,
        compiled or under `vmap` there are no places: nothing may be copied over.
        """
        if self.entries.memory_limit is None or not is_alone():
            return {}
        tiles, count = self.entries.tiles.edges, self._states_an_edge
        shapes = {
            index: (count, *tiles[index].shape, self.net.config.width)
            for index in sorted(self.keeps)
        }
        sizes = [prod(shape) for shape in shapes.values()]
        pieces = new_empty(self.bias, [sum(sizes)]).split(sizes)
        return {
            index: list(piece.view(shape))
            for (index, shape), piece in zip(shapes.items(), pieces, strict=True)
        }

    @property
    def _states_an_edge(self) -> int:
        return 1 if self.net.config.directions == "own" else 2

    def _tiles_to_keep(self) -> set[int]:
        """Return the tiles whose states fit the memory limit, the first ones first."""
        config, room = self.net.config, self.entries.memory_limit
        tiles = self.entries.tiles.edges
        if room is None:
            return set(range(len(tiles)))
        number = self.net.edge_in.weight.element_size()
        an_edge = self._states_an_edge * config.width * number
        keeps = set()
        for index, tile in enumerate(tiles):
            size = prod(tile.shape) * an_edge
            if size <= room:
                keeps.add(index)
                room -= size
        return keeps


class NGGNNNet(GraphInputs):
    """NG-GNN from features laid on a neural graph to two numbers a parameter.

    Args:
        config: sizes and variants.
        num_features: channels an entry.
        num_context: channels a tensor.
        num_outputs: numbers to return an entry.

    Reference:
        Kofinas et al., 2024, sections 3 and 4.3. Differences: positions are keyed by
        role, so they do not shift with the number of inputs; biases read their own
        node; norms do not couple a batch.
    """

    def __init__(
        self,
        config: NGGNNConfig,
        *,
        num_features: int,
        num_context: int,
        num_outputs: int,
    ) -> None:
        width = config.width
        super().__init__(
            width=width,
            kernel=config.kernel,
            num_features=num_features,
            num_context=num_context,
            edge_copies=1 if config.directions == "own" else 3,
        )
        self.config = config
        self.layers = nn.ModuleList(
            MessageLayer(config, is_last=index == config.layers - 1)
            for index in range(config.layers)
        )
        self.edge_out = ReadOut(width)
        self.node_out = ReadOut(width)
        self.entry = FeedForward(
            config.head,
            num_features=num_features,
            num_context=num_context,
            num_structure=width,
            num_outputs=num_outputs,
        )

    @property
    def message_layers(self) -> list[MessageLayer]:
        """The message-passing layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, MessageLayer)]

    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry and write its outputs.

        Args:
            graph: the optimizee's graph.
            entries: where features come from and outputs go.
            context: `[tensor, num_context]`, in the order of `graph.shapes`.
        """
        tiles = entries.tiles
        for_nodes, for_edges = self.context_parts(context)
        nodes = self.encode_nodes(graph, entries, for_nodes)
        edges = EdgeStates(self, entries, for_edges)
        for layer in self.message_layers:
            nodes = layer(nodes, tiles.edges, edges)
        self.write_edges(entries, context, edges)
        self.write_nodes(entries, context, nodes)

    def write_edges(self, entries: Entries, context: Tensor, edges: EdgeStates) -> None:
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
        side_by_side(write, owned, context.device)

    def write_nodes(self, entries: Entries, context: Tensor, nodes: Tensor) -> None:
        """Write the outputs of all node parameters from the last node states."""
        for tile in entries.tiles.nodes:
            structure = self.node_out(nodes.index_select(0, tile.neurons))[:, None]
            shared = at_owners(context, tile)
            entries.write(tile, self.entry(entries.read(tile), shared, structure))

    def directed(self, summary: Tensor) -> list[Tensor]:
        """Return the input of each edge state: one, or one a direction."""
        if self.config.directions == "own":
            return [summary]
        none = torch.zeros_like(summary)
        return [
            torch.cat([summary, none, summary], dim=-1),
            torch.cat([none, summary, summary], dim=-1),
        ]
