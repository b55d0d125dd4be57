"""NG-T as a rule: attention between all neurons, then a perceptron for the entries."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from l2o.graph import NeuralGraph
from l2o.graph.tiles import EdgeTile, NodeTile

from .config import NGTConfig
from .entries import Entries, at_owners
from .feed_forward import FeedForward
from .graph_inputs import AbstractGraphNet
from .net import NetSizes
from .thread_map import thread_map
from .transformer import RelationalConfig, RelationalLayer


class NGTNet(AbstractGraphNet):
    """A relational transformer from features laid on a graph to numbers per entry.

    The network is read as the full graph of its neurons: from every neuron to every
    other, and to itself, there is an edge state `[from, to, width]`. A layer is a dense
    fan of edges; neurons that nothing joins have the state of an edge without features;
    where several edges join two neurons, what they add to having none is summed. A tie,
    which has no entries, reads as an edge of ones: a weight of one at the centre of the
    kernel.

    So a step costs time and memory in the square of the number of neurons, whatever
    joins them: an edge state of 1,050 neurons takes 135 MiB at width 32, and a step
    some nine of these without autograd. All are kept, whatever `Rule.memory_limit`
    says; a graph beyond `config.most_neurons` is refused.

    Args:
        config: sizes and variants.
        sizes: channels in and out.

    Reference:
        Kofinas et al., 2024, sections 3 and 4.3; Diao and Loynd, 2023, "Relational
        Attention: Generalizing Transformers for Graph-Structured Tasks",
        https://arxiv.org/abs/2210.05062. Differences: no token besides the neurons,
        behind which the released read-out finds every state one place off; positions
        are keyed by role and fixed. With the published sizes these are 78,434 weights
        of the published 398,466; the others are the table of positions (320,000) and
        the token (32).
    """

    def __init__(self, config: NGTConfig, sizes: NetSizes) -> None:
        width = config.width
        super().__init__(config, sizes)
        self.config = config
        layer = RelationalConfig(
            node_width=width,
            edge_width=width,
            attention_width=width,
            node_hidden=2 * width,
            edge_hidden=2 * width,
            update_hidden=width,
            heads=config.heads,
            out_projection=False,
            edge_means=True,
        )
        self.layers = nn.ModuleList(
            RelationalLayer(layer) for _ in range(config.layers)
        )
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()  # learning to optimize has torch's own
        self.read_out = nn.Sequential(
            *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        )
        self.read_out_end = nn.Linear(width, width)
        self.entry = FeedForward(config.head, sizes, num_structure=width)

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if cells do not fit or neurons are too many."""
        super().check(graph)
        neurons = sum(group.size for group in graph.groups)
        if neurons > self.config.most_neurons:
            mebibytes = 4 * self.width * neurons**2 / 2**20
            raise ValueError(
                f"NGTNet needs graphs of at most {self.config.most_neurons} neurons, "
                f"since every neuron attends to all; got {neurons}, for which an edge "
                f"state takes {mebibytes:,.0f} MiB. Use rule='ng-gnn' or rule='base', "
                "whose cost grows with the number of weights, or raise "
                "NGTConfig(most_neurons=...)."
            )

    @override
    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry and write its outputs."""
        for_nodes, for_edges = self.context_parts(context)
        nodes = self.encode_nodes(graph, entries, for_nodes)
        edges = self.encode_edges(entries, for_edges)
        nodes, edges = self.attend(nodes, edges)
        self.write(entries, context, nodes, edges)

    def encode_edges(self, entries: Entries, extra: Tensor) -> Tensor:
        """Return the first state from every neuron to every other.

        Args:
            entries: where features come from.
            extra: what tensors add to their edges, as `context_parts` returns it.

        Returns:
            `[neuron, neuron, width]`, from the first to the second.
        """
        size = len(entries.tiles.degree)
        weight = self.edge_mix.weight @ self.edge_in.weight
        extra = extra @ self.edge_mix.weight.T
        places = [extra.new_zeros(0, dtype=torch.int64)]
        states = [extra[:0]]
        for tile in entries.tiles.edges:
            summary = self.summarize(self._read(entries, tile), tile.cells)
            own = extra.index_select(0, tile.owner)[:, None, None]
            states.append((summary @ weight.T + own).flatten(0, 2))
            places.append(_pairs(tile, size).flatten())
        # Not added to `none`, expanded: there, torch.compile writes wrong numbers.
        found = extra.new_zeros(size * size, self.width)
        found = found.index_add(0, torch.cat(places), torch.cat(states))
        none = self.edge_mix(self.edge_in.bias)
        return (found + none).unflatten(0, (size, size))

    def _read(self, entries: Entries, tile: EdgeTile) -> Tensor:
        """Return the features of a tile's entries; ones for ties, which have none."""
        if tile.blocks:
            return entries.read(tile)
        weight = self.entry.first.weight
        return weight.new_ones(*tile.shape, 1, weight.shape[1])

    def attend(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last states from the first.

        Args:
            nodes: `[neuron, width]`.
            edges: `[neuron, neuron, width]`.
        """
        nodes, edges = nodes[None], edges[None]
        for layer in self.layers:
            nodes, edges = layer(nodes, edges)
        return nodes[0], edges[0]

    def write(
        self, entries: Entries, context: Tensor, nodes: Tensor, edges: Tensor
    ) -> None:
        """Write the outputs of all entries from the last states.

        Args:
            entries: where features come from and outputs go.
            context: `[tensor, num_context]`.
            nodes: `[neuron, width]`.
            edges: `[neuron, neuron, width]`.
        """
        pairs = edges.flatten(0, 1)

        def write(tile: EdgeTile | NodeTile) -> None:
            if isinstance(tile, EdgeTile):
                places = _pairs(tile, len(edges))
                states = pairs.index_select(0, places.flatten())
                states = states.unflatten(0, places.shape)
            else:
                states = nodes.index_select(0, tile.neurons)
            structure = self.read_out(states)[..., None, :]
            shared = at_owners(context, tile)
            outputs = self.entry(
                entries.read(tile), shared, structure, self.read_out_end
            )
            entries.write(tile, outputs)

        thread_map(write, entries.tiles.owned, context.device)


def _pairs(tile: EdgeTile, size: int) -> Tensor:
    """Return where a tile's edges stand among all pairs, `[part, target, source]`."""
    return tile.source[:, None, :] * size + tile.target[:, :, None]
