"""The neuron-level NG-GNN as a user of PyTorch Geometric would write it.

The same network with the same weights as `NeuronGNN`, and the same numbers, but every
weight is an edge of a list: messages pass from neurons to rows and columns along edges
with weights, from there to neurons, and along ties. The matrix products are checked
against it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing
from typing_extensions import override

from .neuron_gnn import (
    Exchange,
    NeuronFeatures,
    NeuronGNN,
    NeuronGNNLayer,
    NeuronOutputs,
    NeuronWiring,
)


class WeightedEdges(NamedTuple):
    """Edges from neurons to lines, once for each entry and each direction."""

    edge_index: Tensor
    """`[2, edge]`: neuron, line."""
    weight: Tensor
    """`[edge, channel]`."""
    is_to_row: Tensor
    """`[edge]`."""

    @classmethod
    def of(
        cls,
        wiring: NeuronWiring,
        matrices: Sequence[tuple[Tensor, int, int]],
    ) -> "WeightedEdges":
        """List the entries of all matrices.

        Args:
            wiring: the graph.
            matrices: of each stack `[channel, matrix, row, column]`, the number of its
                first row among the lines, and of its first column.
        """
        edges, weights, sides = [], [], []
        for values, first_row, first_column in matrices:
            _, count, height, width = values.shape
            matrix = torch.arange(count)[:, None, None]
            rows = first_row + matrix * height + torch.arange(height)[:, None]
            columns = first_column + matrix * width + torch.arange(width)
            shape = count, height, width
            rows, columns = rows.expand(shape).flatten(), columns.expand(shape)
            columns = columns.flatten()
            is_real = (
                wiring.matrix[rows] < len(wiring.at_matrices.starts) // 2 - 1
            ) & (wiring.matrix[columns] < len(wiring.at_matrices.starts) // 2 - 1)
            rows, columns = rows[is_real], columns[is_real]
            weight = values.flatten(1).T[is_real]
            edges += [torch.stack([wiring.neuron[columns], rows])]
            edges += [torch.stack([wiring.neuron[rows], columns])]
            weights += [weight, weight]
            sides += [torch.ones_like(rows), torch.zeros_like(rows)]
        return cls(torch.cat(edges, 1), torch.cat(weights), torch.cat(sides).bool())


class _ToLines(MessagePassing):
    """Sum over edges of weight times message, and of the weights."""

    def __init__(self) -> None:
        super().__init__(aggr="sum", node_dim=0)

    @override
    def forward(self, said: Tensor, edges: WeightedEdges, num_lines: int) -> Tensor:
        """Return weighted means, `[line, channel, message]`.

        Args:
            said: `[neuron, side, channel, message]`.
            edges: from neurons to lines.
            num_lines: number of lines.
        """
        size = len(said), num_lines
        found = self.propagate(edges.edge_index, x=(said, None), edges=edges, size=size)
        return found[..., :-1] / (found[..., -1:] + 1e-30)

    def message(  # pyright: ignore[reportIncompatibleMethodOverride] - by name
        self, x_j: Tensor, edges: WeightedEdges
    ) -> Tensor:
        """Return what passes along each edge."""
        own = torch.where(edges.is_to_row[:, None, None], x_j[:, 0], x_j[:, 1])
        ones = torch.ones_like(own[..., :1])
        return torch.cat([own, ones], -1) * edges.weight[..., None]


class _Mean(MessagePassing):
    """The mean over edges."""

    def __init__(self) -> None:
        super().__init__(aggr="mean", node_dim=0)

    @override
    def forward(self, values: Tensor, edge_index: Tensor, size: int) -> Tensor:
        """Return `[size, channel]`; zero where no edge leads."""
        pair = (len(values), size)
        return self.propagate(edge_index, x=(values, None), size=pair)

    def message(  # pyright: ignore[reportIncompatibleMethodOverride] - by name
        self, x_j: Tensor
    ) -> Tensor:
        """Return what passes along each edge."""
        return x_j


class PyGNeuronGNN(nn.Module):
    """NG-GNN neuron by neuron over edge lists; shares the weights of a `NeuronGNN`.

    Args:
        net: the network.
    """

    def __init__(self, net: NeuronGNN) -> None:
        super().__init__()
        self.net = net
        self.to_lines, self.mean = _ToLines(), _Mean()

    @override
    def forward(
        self, wiring: NeuronWiring, features: NeuronFeatures, exchange: Exchange
    ) -> NeuronOutputs:
        """Return what `NeuronGNN.forward` does; `exchange` must have `matrices()`."""
        net, neurons = self.net, len(wiring.neurons)
        edges = WeightedEdges.of(
            wiring,
            exchange.matrices(),  # pyright: ignore[reportFunctionMemberAccess]
        )
        matrices = net.matrix_mix(F.silu(net.matrix_in(features.matrices)))
        lines = [features.lines, matrices[wiring.matrix]]
        lines = F.silu(net.line_in(torch.cat(lines, -1)))
        first = self._by_side(lines, wiring.neuron, wiring, neurons)
        nodes = F.silu(net.neuron_in(torch.cat([wiring.neurons, first], -1)))
        for layer in net.layers:
            assert isinstance(layer, NeuronGNNLayer)
            nodes = self._next(layer, nodes, wiring, edges)
        ends = nodes[wiring.neuron]
        pooled = self._by_side(ends, wiring.matrix, wiring, len(matrices))
        said = net.line_out(torch.cat([lines, wiring.sides, ends], -1)).squeeze(-1)
        return NeuronOutputs(said, net.matrix_out(torch.cat([matrices, pooled], -1)))

    def _next(
        self,
        layer: NeuronGNNLayer,
        nodes: Tensor,
        wiring: NeuronWiring,
        edges: WeightedEdges,
    ) -> Tensor:
        """Return the next state of every neuron."""
        shape = 2, layer.num_channels, layer.message_width
        said = layer.say(nodes).unflatten(-1, shape)
        heard = self.to_lines(said, edges, len(wiring.neuron)).flatten(1)
        weighted = self._by_side(heard, wiring.neuron, wiring, len(nodes))
        kinds = layer.say_to_ties(nodes[wiring.tied]).view(-1, layer.message_width)
        ties = torch.stack([wiring.senders, wiring.receivers])
        tied = self.mean(kinds, ties, len(nodes))
        inbox = torch.cat([nodes, weighted, tied], dim=-1)
        return nodes + layer.change(F.silu(layer.hear(inbox)))

    def _by_side(
        self, values: Tensor, place: Tensor, wiring: NeuronWiring, size: int
    ) -> Tensor:
        """Return means over rows, then over columns, `[size, 2 * channel]`."""
        found = []
        for side in (0, 1):
            which = wiring.sides[:, side].nonzero().squeeze(1)
            edge_index = torch.stack([which, place[which]])
            found.append(self.mean(values, edge_index, size))
        return torch.cat(found, dim=-1)
