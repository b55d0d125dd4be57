"""The NG-GNN layer on a flat list of edges, as a user of PyTorch Geometric writes it.

Every edge gathers the states of its ends, and messages are scattered to their
receivers. The dense layer is checked and timed against it, in the optimizer
(`PyGNGGNNNet`) and in the companion (`PyGClassifier`).
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree
from typing_extensions import override

from .fast_ops import Pointwise
from .message_layer import MessageLayer


class MessageConv(MessagePassing):
    """One NG-GNN layer over an edge list.

    Args:
        layer: the dense layer; its weights are shared, not copied.
        both_ways: whether messages also run against the listed edges.
    """

    def __init__(self, layer: MessageLayer, *, both_ways: bool) -> None:
        super().__init__(aggr=["mean", "min", "max", "var"])
        self.layer = layer
        self.both_ways = both_ways
        self.typical_log_degree = layer.typical_log_degree

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
        layer = self.layer
        ways = [edge_index, edge_index.flip(0)] if self.both_ways else [edge_index]
        size = (len(nodes), len(nodes))
        messages = []
        for way, index in zip((0, -1), ways, strict=False):
            states = {
                "receiver": layer.from_receiver[way](nodes),
                "sender": layer.from_sender[way](nodes),
                "modulation": layer.scale_shift[way](edges[way]),
            }
            messages.append(self.edge_updater(index, size=size, **states))
        both = torch.cat(ways, dim=1)
        reduced = self.propagate(both, messages=torch.cat(messages), size=size)
        reduced = self._amplified(reduced, both[1], len(nodes))
        nodes = layer.dropout(layer.update_nodes(nodes, reduced))
        if not layer.has_edge_update:
            return nodes, edges
        pairs = zip(edges, ways, strict=False)
        return nodes, [self._next(edge, nodes, *way) for edge, way in pairs]

    def edge_update(  # pyright: ignore[reportIncompatibleMethodOverride] - by name
        self, receiver_i: Tensor, sender_j: Tensor, modulation: Tensor
    ) -> Tensor:
        """Return the message of every edge."""
        scale, shift = modulation.chunk(2, dim=-1)
        return scale * (receiver_i + sender_j) + shift

    def message(  # pyright: ignore[reportIncompatibleMethodOverride] - by name
        self, messages: Tensor
    ) -> Tensor:
        """Return what `edge_update` computed."""
        return messages

    def _amplified(self, reduced: Tensor, receivers: Tensor, count: int) -> Tensor:
        """Turn variances into deviations; append all amplified by degree."""
        edges = degree(receivers, count, dtype=reduced.dtype)[:, None]
        mean, low, high, variance = reduced.chunk(4, dim=-1)
        deviation = (variance.relu() + 1e-5).sqrt() * (edges > 0)
        plain = torch.cat([mean, low, high, deviation], dim=-1)
        return torch.cat([plain, plain * edges.log1p() / self.typical_log_degree], -1)

    def _next(
        self, edges: Tensor, nodes: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        """Return the next states of the edges, from their own and both ends'."""
        layer = self.layer
        ends = layer.edge_source(nodes)[source] + layer.edge_target(nodes)[target]
        hidden = activate(layer.activation, layer.edge_own(edges) + ends)
        update = layer.edge_out(hidden)
        return edges + update if layer.residual_edges else update


def activate(activation: Pointwise, values: Tensor) -> Tensor:
    """Return the activation of `values` as a new tensor."""
    return getattr(F, activation.name)(values)
