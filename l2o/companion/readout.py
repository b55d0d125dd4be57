"""From the last states to an answer per network, or to an update of it."""

from math import prod
from typing import assert_never

import torch
from torch import Tensor, nn

from l2o.graph import Blocks, from_blocks
from l2o.graph.layout import crop_cells

from .batch import NetworkBatch
from .config import InputsConfig, Pooling, ReadoutConfig
from .fan_states import LastStates
from .roles import layer_rows
from .union_graph import UnionGraph, neuron_numbers

INITIAL_SCALE = 0.01
"""What updates are multiplied by before any training."""


class Readout(nn.Module):
    """Pools node states and maps them to a few numbers per network.

    Args:
        config: pooling and sizes.
        inputs: the networks that are read.
        node_width: channels of a node state.
        num_answers: numbers per network.

    Reference:
        Kofinas et al., 2024, section 3: the states of the output neurons, one after
        another, tell outputs apart.
    """

    def __init__(
        self,
        config: ReadoutConfig,
        inputs: InputsConfig,
        *,
        node_width: int,
        num_answers: int,
    ) -> None:
        super().__init__()
        self.pooling: Pooling = config.pooling
        self.num_outputs = inputs.num_outputs
        is_joined = config.pooling == "outputs"
        width = node_width * inputs.num_outputs if is_joined else node_width
        layers: list[nn.Module] = []
        for _ in range(config.layers):
            layers += [nn.Linear(width, config.width), nn.ReLU()]
            width = config.width
        self.network = nn.Sequential(*layers, nn.Linear(width, num_answers))

    def forward(self, graph: UnionGraph, states: LastStates) -> Tensor:
        """Return `[network, answer]`, in the order of the batch.

        Raises:
            ValueError: if output neurons are pooled and a network has not the
                configured number of them.
        """
        return graph.in_order(self.network(self._pool(graph, states.nodes)))

    def _pool(self, graph: UnionGraph, nodes: Tensor) -> Tensor:
        """Return `[network, channel]`."""
        match self.pooling:
            case "outputs":
                return self._outputs(graph, nodes).flatten(1)
            case "last_mean":
                return self._outputs(graph, nodes).mean(1)
            case "last_max":
                return self._outputs(graph, nodes).amax(1)
            case "mean":
                count = graph.is_real.sum(1, keepdim=True)
                return graph.pad(nodes).sum(1) / count
            case "max":
                padding = ~graph.is_real[..., None]
                return graph.pad(nodes).masked_fill(padding, -torch.inf).amax(1)
            case _:
                assert_never(self.pooling)

    def _outputs(self, graph: UnionGraph, nodes: Tensor) -> Tensor:
        """Return the output neurons, `[network, output, width]`."""
        numbers = graph.outputs
        if numbers is None or numbers.shape[1] != self.num_outputs:
            found = "various" if numbers is None else numbers.shape[1]
            raise ValueError(
                f"InputsConfig(num_outputs={self.num_outputs}) reads networks with "
                f"exactly that many outputs; got {found}. Set num_outputs, or pool "
                "over all neurons with ReadoutConfig(pooling='mean')."
            )
        return nodes[numbers]


class EditReadout(nn.Module):
    """Maps each edge to an update of its weights, each node to one of its bias.

    Updates are multiplied by a learned number for the weights and one for the biases of
    each layer.

    Args:
        inputs: the networks that are edited.
        node_width: channels of a node state.
        edge_width: channels of an edge state.

    Reference:
        Kofinas et al., 2024, section 4.1. In their code biases read the states of other
        neurons, as many places off as the network has inputs.
    """

    def __init__(
        self, inputs: InputsConfig, *, node_width: int, edge_width: int
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.edge_in = nn.Linear(edge_width, edge_width)
        self.edge_out = nn.Linear(edge_width, prod(inputs.kernel))
        self.node_network = nn.Sequential(
            nn.Linear(node_width, node_width), nn.ReLU(), nn.Linear(node_width, 1)
        )
        scales = torch.full((inputs.num_hidden + 1,), INITIAL_SCALE)
        self.weight_scale = nn.Parameter(scales)
        self.bias_scale = nn.Parameter(scales.clone())

    def forward(
        self, batch: NetworkBatch, union: UnionGraph, states: LastStates
    ) -> dict[str, Tensor]:
        """Return name to `[network, *shape]`.

        Raises:
            ValueError: if the networks have several architectures.
        """
        graph, count = batch.graph, len(batch)
        rows = layer_rows(graph, self.inputs)
        edges = [batch.like.new_zeros(0)] * len(graph.blocks)
        mapped = states.edges.mapped(self.edge_in)
        for pieces, hidden in zip(union.pieces, mapped, strict=True):
            updates = self.edge_out(hidden.relu())
            sizes = [piece.parts for piece in pieces]
            for piece, own in zip(pieces, updates.split(sizes), strict=True):
                if piece.block >= len(graph.blocks):
                    continue  # a tie has no weight
                block = graph.blocks[piece.block]
                cut = crop_cells(own.flatten(0, 1), block.cells, self.inputs.kernel)
                scale = self.weight_scale[rows[block.target.group] - 1]
                shape = count, *block.view.shape[:3], block.num_cells
                edges[piece.block] = scale * cut.reshape(shape).movedim(0, -1)
        values = self.node_network(states.nodes).view(count, -1)
        nodes = []
        for node in graph.node_parameters:
            index = neuron_numbers(graph, node.neurons).to(values.device)
            scale = self.bias_scale[rows[node.neurons.group] - 1]
            nodes.append(scale * values[:, index].T[:, None])
        found = from_blocks(graph, Blocks(tuple(edges), tuple(nodes)))
        return {name: value.movedim(-1, 0) for name, value in found.items()}
