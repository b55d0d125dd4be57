"""From weights and biases to the first node and edge states."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.graph import Blocks, NeuralGraph, to_blocks
from l2o.graph.layout import pad_cells

from .batch import NetworkBatch, NetworkStack
from .config import InputsConfig
from .flattened import place_rows
from .probes import Evaluate, Probes
from .projection import Projection
from .roles import activation_rows, layer_rows, position_rows
from .union_graph import (
    Piece,
    UnionGraph,
    count_neurons,
    find_union_graph,
    neuron_numbers,
    node_channels,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A batch of networks as a backbone reads it."""

    graph: UnionGraph
    """Neurons and edges."""
    nodes: Tensor
    """`[neuron, node width]`."""
    edges: list[Tensor]
    """For each fan `[part, receiver, sender, edge width]`."""
    no_edge: Tensor
    """`[edge width]`, how two neurons that nothing joins look."""


class NetworkInputs(nn.Module):
    """The front end that NG-GNN and NG-T share.

    Args:
        config: its parts.
        node_width: channels of a node state.
        edge_width: channels of an edge state.
        evaluate: how to run the networks on probes, if there are any.

    Reference:
        Kofinas et al., 2024, sections 3 and 4 and appendix C. Kernels that are not
        square are centred on both axes, unlike in their code.
    """

    weight_mean: Tensor
    weight_std: Tensor
    bias_mean: Tensor
    bias_std: Tensor

    def __init__(
        self,
        config: InputsConfig,
        *,
        node_width: int,
        edge_width: int,
        evaluate: Evaluate | None,
    ) -> None:
        super().__init__()
        self.config = config
        has_ways = config.reversed_edges
        cells = prod(config.kernel)
        self.edge_in = Projection(cells, edge_width, config, has_ways=has_ways)
        self.linear_in = (
            None
            if config.linear_as_conv
            else Projection(1, edge_width, config, has_ways=has_ways)
        )
        self.node_in = Projection(
            config.node_channels, node_width, config, has_ways=False
        )
        rows = config.num_inputs + config.num_hidden + config.num_outputs
        self.positions = _table(rows if config.positions else 0, node_width)
        self.activations = _table(len(config.activations), node_width)
        self.places = _table(config.num_places, node_width)
        self.probes = (
            Probes(config, width=node_width, evaluate=evaluate)
            if config.num_probes
            else None
        )
        for name, channels in (("weight", 1), ("bias", config.node_channels)):
            zeros = torch.zeros(channels * (config.num_hidden + 2))
            self.register_buffer(f"{name}_mean", zeros)
            self.register_buffer(f"{name}_std", zeros + 1)

    @torch.no_grad()
    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Standardise each layer's weights and biases as these networks have them.

        One mean and one deviation per layer: one per entry would tell hidden neurons
        apart. A layer whose values are all equal is shifted and not scaled.
        """
        self._fit(batch, _weights, self.weight_mean, self.weight_std)
        self._fit(batch, _biases, self.bias_mean, self.bias_std)

    def _fit(
        self,
        batch: NetworkBatch,
        pieces: Callable[[NeuralGraph, Blocks], Iterable[tuple[int, int, Tensor]]],
        means: Tensor,
        deviations: Tensor,
    ) -> None:
        sums = torch.zeros(3, len(means), dtype=torch.float64)
        for stack in batch.stacks:
            rows = layer_rows(stack.graph, self.config)
            for group, channel, values in pieces(stack.graph, _lay(stack)):
                wide = values.double()
                own = float(wide.numel()), float(wide.sum()), float(wide.square().sum())
                row = self._row(rows[group], channel)
                sums[:, row] += torch.tensor(own, dtype=torch.float64)
        count, total, square = sums
        mean = total / count.clamp_min(1)
        deviation = (square / count.clamp_min(1) - mean.square()).clamp_min(0).sqrt()
        means.copy_(mean)
        deviations.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, batch: NetworkBatch) -> Encoded:
        """Return the first states.

        Raises:
            ValueError: if a network does not fit the configured sizes.
        """
        for stack in batch.stacks:
            place_rows(stack.graph, self.config)  # raises where places have no row
        graph = find_union_graph(
            batch,
            both_ways=self.config.reversed_edges,
            ties=self.config.ties,
            tell_linear=self.linear_in is not None,
        )
        laid = [_lay(stack) for stack in batch.stacks]
        edges: list[Tensor] = []
        flipped: list[Tensor] = []
        for pieces in graph.pieces:
            parts = [self._piece(batch.stacks, laid, piece) for piece in pieces]
            values = parts[0] if len(parts) == 1 else torch.cat(parts)
            is_kernel = self.linear_in is None or not pieces[0].is_linear
            project = self.edge_in if is_kernel else self.linear_in
            assert project is not None
            edges.append(project(values))
            if self.config.reversed_edges:
                flipped.append(project(values.transpose(1, 2), is_reversed=True))
        return Encoded(
            graph=graph,
            nodes=self._encode_nodes(batch, laid),
            edges=edges + flipped,
            no_edge=self.edge_in(batch.like.new_zeros(self.edge_in.channels)),
        )

    def _piece(
        self, stacks: Sequence[NetworkStack], laid: Sequence[Blocks], piece: Piece
    ) -> Tensor:
        """Return a block's values in all networks, `[part, target, source, cell]`."""
        graph, kernel = stacks[piece.stack].graph, self.config.kernel
        if piece.block >= len(graph.blocks):
            like = next(iter(stacks[piece.stack].params.values()))
            tie = like.new_zeros(piece.parts, 1, 1, *kernel)
            tie[(..., *(size // 2 for size in kernel))] = 1.0
            return tie.flatten(3)
        block = graph.blocks[piece.block]
        row = layer_rows(graph, self.config)[block.target.group]
        values = laid[piece.stack].edges[piece.block].movedim(-1, 0).flatten(0, 1)
        values = (values - self.weight_mean[row]) / self.weight_std[row]
        if piece.is_linear and self.linear_in is not None:
            return values
        grid = (1,) * (len(kernel) - len(block.cells)) + block.cells
        is_longer = len(grid) != len(kernel)
        if is_longer or any(a > b for a, b in zip(grid, kernel, strict=True)):
            raise ValueError(
                f"InputsConfig(kernel={kernel}) reads kernels that fit in it; got "
                f"{block.parameter!r} with cells {block.cells}. Choose a larger kernel."
            )
        padded = pad_cells(values.flatten(0, 1), block.cells, kernel)
        return padded.unflatten(0, values.shape[:2])

    def _encode_nodes(self, batch: NetworkBatch, laid: Sequence[Blocks]) -> Tensor:
        """Return the node states, `[neuron, width]`."""
        pairs = list(zip(batch.stacks, laid, strict=True))
        values = torch.cat([self._node_values(*pair) for pair in pairs])
        extra = None if self.probes is None else self.probes(batch)
        nodes = self.node_in(values, extra=extra)
        for table, find in (
            (self.positions, position_rows),
            (self.activations, activation_rows),
            (self.places, place_rows),
        ):
            if table is not None:
                wider = F.pad(table, (0, 0, 0, 1))  # the last row is for those without
                rows = [
                    find(stack.graph, self.config).repeat(len(stack)).to(wider.device)
                    for stack in batch.stacks
                ]
                nodes = nodes + wider[torch.cat(rows)]
        return nodes

    def _row(self, layer: int, channel: int) -> int:
        """Return the row of a layer in the tables of means and deviations."""
        if channel >= self.config.node_channels:
            raise ValueError(
                f"InputsConfig(node_channels={self.config.node_channels}) reads so "
                f"many entries per neuron; got {channel + 1} or more, such as a bias "
                "and a PReLU's slope or a position table. Set node_channels to what "
                "infer_config(graph) says."
            )
        return layer + channel * (self.config.num_hidden + 2)

    def _node_values(self, stack: NetworkStack, laid: Blocks) -> Tensor:
        """Return each neuron's standardised entries, `[neuron, channel]`, or 0."""
        graph, like = stack.graph, next(iter(stack.params.values()))
        rows, channels = layer_rows(graph, self.config), self.config.node_channels
        found = like.new_zeros(count_neurons(graph) * channels, len(stack))
        for node, values, channel in zip(
            graph.node_parameters, laid.nodes, node_channels(graph), strict=True
        ):
            index = neuron_numbers(graph, node.neurons).to(like.device)
            for cell, entries in enumerate(values.unbind(1), start=channel):
                row = self._row(rows[node.neurons.group], cell)
                own = (entries - self.bias_mean[row]) / self.bias_std[row]
                found = found.index_add(0, index * channels + cell, own)
        return found.unflatten(0, (-1, channels)).movedim(-1, 0).flatten(0, 1)


def _lay(stack: NetworkStack) -> Blocks:
    """Lay the parameters on blocks, `[..., network]`."""
    params = {name: value.movedim(0, -1) for name, value in stack.params.items()}
    return to_blocks(stack.graph, params)


def _weights(graph: NeuralGraph, laid: Blocks) -> Iterable[tuple[int, int, Tensor]]:
    """Yield the group that weights lead to, 0, and their values."""
    for block, values in zip(graph.blocks, laid.edges, strict=True):
        yield block.target.group, 0, values


def _biases(graph: NeuralGraph, laid: Blocks) -> Iterable[tuple[int, int, Tensor]]:
    """Yield the group that biases belong to, their channel, and their values."""
    for node, values, channel in zip(
        graph.node_parameters, laid.nodes, node_channels(graph), strict=True
    ):
        for cell, entries in enumerate(values.unbind(1), start=channel):
            yield node.neurons.group, cell, entries


def _table(rows: int, width: int) -> nn.Parameter | None:
    """Return learned vectors, or None for a table of none."""
    return nn.Parameter(torch.randn(rows, width)) if rows else None
