"""NG-GNN on a flat list of edges, as a user of PyTorch Geometric would write it.

The same network with the same weights as `NGGNNNet`, and the same numbers, but every
edge carries copies of its end states, and messages are scattered to their receivers.
It is what the dense blocks are checked against, and what they are faster than.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree
from typing_extensions import override

from l2o.graph import Blocks, NeuralGraph, Neurons, from_blocks, to_blocks
from l2o.graph.encodings import encode_positions

from .gnn import TYPICAL_LOG_DEGREE, MessageLayer, NGGNNNet


@dataclass(frozen=True, slots=True)
class EdgeList:
    """A neural graph, edge by edge: the weights block after block, then the ties."""

    edge_index: Tensor
    """`[2, edge]`: running numbers of source and target."""
    entry_edge: Tensor
    """`[entry]`: the edge of every weight entry, aliases included."""
    first: tuple[int, ...]
    """Running number of each group's first neuron, and the number of all."""

    @classmethod
    def of(cls, graph: NeuralGraph, device: torch.device) -> "EdgeList":
        """Write out the edges of a graph."""
        first = [0]
        for group in graph.groups:
            first.append(first[-1] + group.size)

        def numbers(neurons: Neurons) -> Tensor:
            index = torch.tensor(tuple(neurons.index), device=device)
            return index + first[neurons.group]

        edges, entries, count = [], [], 0
        for block in graph.blocks:
            parts, targets, sources = block.view.shape[:3]
            size = (parts, targets, sources)
            target = numbers(block.target).view(parts, targets, 1).expand(size)
            source = numbers(block.source).view(parts, 1, sources).expand(size)
            edges.append(torch.stack([source.flatten(), target.flatten()]))
            own = torch.arange(count, count + target.numel(), device=device)
            entries.append(own.repeat_interleave(block.num_cells))
            count += target.numel()
        edges += [
            torch.stack([numbers(tie.source), numbers(tie.target)])
            for tie in graph.ties
        ]
        none = torch.zeros(2, 0, dtype=torch.int64, device=device)
        return cls(
            torch.cat([none, *edges], dim=1),
            torch.cat([none[0], *entries]),
            tuple(first),
        )

    def numbers(self, neurons: Neurons) -> Tensor:
        """Return the running numbers of some neurons."""
        index = torch.tensor(tuple(neurons.index), device=self.edge_index.device)
        return index + self.first[neurons.group]


class MessageConv(MessagePassing):
    """One NG-GNN layer over an edge list, with the weights of a `MessageLayer`."""

    def __init__(self, layer: MessageLayer) -> None:
        super().__init__(aggr=["mean", "min", "max", "var"])
        self.layer = layer

    @override
    def forward(
        self, nodes: Tensor, edges: list[Tensor], edge_index: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the next states.

        Args:
            nodes: `[neuron, width]`.
            edges: `[edge, width]` for each direction, or one for both.
            edge_index: `[2, edge]`.
        """
        layer, reverse = self.layer, edge_index.flip(0)
        messages = [
            self.edge_updater(
                index,
                receiver=layer.from_receiver[way](nodes),
                sender=layer.from_sender[way](nodes),
                modulation=layer.scale_shift[way](edges[way]),
            )
            for way, index in ((0, edge_index), (-1, reverse))
        ]
        both = torch.cat([edge_index, reverse], dim=1)
        size = (len(nodes), len(nodes))
        reduced = self.propagate(both, messages=torch.cat(messages), size=size)
        nodes = layer.update_nodes(nodes, self._scaled(reduced, both[1], len(nodes)))
        own, other = layer.edge_source(nodes), layer.edge_target(nodes)
        ends = [own[source] + other[target] for source, target in (edge_index, reverse)]
        pairs = zip(edges, ends, strict=False)
        return nodes, [layer.update_edge(edge, end) for edge, end in pairs]

    def edge_update(  # pyright: ignore[reportIncompatibleMethodOverride] - by name
        self, receiver_i: Tensor, sender_j: Tensor, modulation: Tensor
    ) -> Tensor:
        """Return the message of every edge."""
        scale, shift = modulation.chunk(2, dim=-1)
        return scale * (receiver_i + sender_j) + shift

    def message(  # pyright: ignore[reportIncompatibleMethodOverride] - by name
        self, messages: Tensor
    ) -> Tensor:
        """Pass on what `edge_update` found."""
        return messages

    def _scaled(self, reduced: Tensor, receivers: Tensor, count: int) -> Tensor:
        """Turn variances into deviations; amplify by degree."""
        edges = degree(receivers, count, dtype=reduced.dtype)[:, None]
        mean, low, high, variance = reduced.chunk(4, dim=-1)
        deviation = (variance.relu() + 1e-5).sqrt() * (edges > 0)
        plain = torch.cat([mean, low, high, deviation], dim=-1)
        return torch.cat([plain, plain * (edges + 1).log() / TYPICAL_LOG_DEGREE], -1)


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
        self.layers = [MessageConv(layer) for layer in net.message_layers]

    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the network cannot read a block of this graph."""
        self.net.check(graph)

    def forward(
        self,
        graph: NeuralGraph,
        features: Mapping[str, Tensor],
        contexts: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return `[*shape, num_outputs]` for every parameter, as `NGGNNNet` does."""
        edge_list = self._edge_list(graph, next(self.parameters()).device)
        laid = to_blocks(graph, features)
        nodes = self._encode_nodes(graph, edge_list, laid, contexts)
        edges = self._encode_edges(graph, edge_list, laid, contexts)
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, edge_list.edge_index)
        return from_blocks(
            graph, self._read(graph, edge_list, laid, contexts, nodes, edges[0])
        )

    def _edge_list(self, graph: NeuralGraph, device: torch.device) -> EdgeList:
        key = ("edge list", device)
        if key not in graph.derived:
            graph.derived[key] = EdgeList.of(graph, device)
        return graph.derived[key]

    def _encode_nodes(
        self,
        graph: NeuralGraph,
        edge_list: EdgeList,
        laid: Blocks,
        contexts: Mapping[str, Tensor],
    ) -> Tensor:
        net = self.net
        positions = encode_positions(graph, net.config.width, net.edge_in.weight)
        nodes = torch.cat(
            [
                item.expand(group.size, -1)
                for item, group in zip(positions, graph.groups, strict=True)
            ]
        )
        for item, values in zip(graph.node_parameters, laid.nodes, strict=True):
            cells = item.view.shape[1:]
            summary = net.summarize(values[:, None, None], cells)[:, 0, 0]
            extra = net.context_parts(contexts[item.parameter][None])[0][0]
            new = net.node_mix(net.node_in(summary) + extra)
            nodes = nodes.index_add(0, edge_list.numbers(item.neurons), new)
        return nodes

    def _encode_edges(
        self,
        graph: NeuralGraph,
        edge_list: EdgeList,
        laid: Blocks,
        contexts: Mapping[str, Tensor],
    ) -> list[Tensor]:
        net = self.net
        summaries, extras = [], []
        for block, values in zip(graph.blocks, laid.edges, strict=True):
            summary = net.summarize(values, block.cells).flatten(0, 2)
            extra = net.context_parts(contexts[block.parameter][None])[1][0]
            summaries.append(summary)
            extras.append(extra.expand(len(summary), -1))
        # Ties come last; they have neither entries nor a context.
        like = net.edge_in.weight
        channels = net.node_in.in_features
        ties = edge_list.edge_index.shape[1] - sum(map(len, summaries))
        summaries.append(like.new_zeros(ties, channels))
        extras.append(like.new_zeros(ties, net.config.width))
        summary, extra = torch.cat(summaries), torch.cat(extras)
        return [
            net.edge_mix(net.edge_in(item) + extra) for item in net.directed(summary)
        ]

    def _read(
        self,
        graph: NeuralGraph,
        edge_list: EdgeList,
        laid: Blocks,
        contexts: Mapping[str, Tensor],
        nodes: Tensor,
        edges: Tensor,
    ) -> Blocks:
        net = self.net
        structure = net.edge_out(edges)[edge_list.entry_edge]
        sizes = [block.view.numel for block in graph.blocks]
        found = [
            net.entry(values.flatten(0, 3), contexts[block.parameter], rows).unflatten(
                0, values.shape[:4]
            )
            for block, values, rows in zip(
                graph.blocks, laid.edges, structure.split(sizes), strict=True
            )
        ]
        node_structure = net.node_out(nodes)
        biases = [
            net.entry(
                values,
                contexts[item.parameter],
                node_structure[edge_list.numbers(item.neurons)][:, None],
            )
            for item, values in zip(graph.node_parameters, laid.nodes, strict=True)
        ]
        return Blocks(tuple(found), tuple(biases))
