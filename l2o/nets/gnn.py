"""NG-GNN: message passing over a neural graph, on dense blocks.

A block is a full bipartite piece of the graph, so its edge states form one tensor
`[target, source, width]`, both end states enter by broadcasting, and messages are
reduced over one of its axes: no index, no gather, no scatter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn

from l2o.graph import Blocks, NeuralGraph, from_blocks, to_blocks
from l2o.graph.encodings import encode_positions
from l2o.graph.layout import pad_cells

from .config import NGGNNConfig
from .feed_forward import FeedForward, build_activation

_NUM_REDUCTIONS = 8
"""Mean, minimum, maximum, deviation, each plain and amplified by degree."""

_TYPICAL_LOG_DEGREE = log(32.0)
"""Where the amplification is 1: a neuron with 31 neighbours."""


@dataclass(frozen=True, slots=True)
class GraphState:
    """Node states `[neuron, width]` a group, edge states `[target, source, width]`.

    `edges[d][b]` is block b's state for direction d. Where both directions share one
    state, `edges` has one entry.
    """

    nodes: tuple[Tensor, ...]
    edges: tuple[tuple[Tensor, ...], ...]


class MessageLayer(nn.Module):
    r"""One NG-GNN layer: messages to the nodes, then an update of the edges.

    .. math::
        m_{ij} = scale(e_{ij}) (A v_i + B v_j) + shift(e_{ij}), \\quad
        v_i' = U [v_i, reduce_j m_{ij}], \\quad
        e_{ij}' = W_2 \\sigma(W_1 e_{ij} + C v_j' + D v_i')

    Messages run along and against every edge; one neuron's messages of both
    directions are reduced together.

    Args:
        config: the network's configuration.
        is_last: the last layer has no norm and activation, unless `residual`.

    Reference:
        Kofinas et al., 2024, Eq. 3-4; Corso et al., 2020, "Principal Neighbourhood
        Aggregation", https://arxiv.org/abs/2004.05718. Differences: the norm is per
        node, never over a batch; `directions="own"` and `residual` are ours.
    """

    def __init__(self, config: NGGNNConfig, *, is_last: bool) -> None:
        super().__init__()
        width = config.width
        maps = 2 if config.directions == "own" else 1
        self.is_last = is_last
        self.is_residual = config.residual
        self.scale_shift = nn.ModuleList(
            nn.Linear(width, 2 * width) for _ in range(maps)
        )
        self.from_receiver = nn.ModuleList(nn.Linear(width, width) for _ in range(maps))
        self.from_sender = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(maps)
        )
        self.update = nn.Linear((1 + _NUM_REDUCTIONS) * width, width)
        self.mix = nn.Linear(width, width)
        has_norm = config.residual or not is_last
        self.norm = nn.LayerNorm(width) if has_norm else nn.Identity()
        self.activation = build_activation(config.activation)
        self.edge_own = nn.Linear(width, width)
        self.edge_source = nn.Linear(width, width)
        self.edge_target = nn.Linear(width, width)
        self.edge_out = nn.Linear(width, width)

    def forward(self, graph: NeuralGraph, state: GraphState) -> GraphState:
        """Return the next states; shapes stay."""
        inbox: list[list[Tensor]] = [[] for _ in graph.groups]
        for index, block in enumerate(graph.blocks):
            target, source = state.nodes[block.target], state.nodes[block.source]
            along = self._messages(0, state.edges[0][index], target[:, None], source)
            against = self._messages(1, state.edges[-1][index], source, target[:, None])
            inbox[block.target].append(along)
            inbox[block.source].append(against.transpose(0, 1))
        nodes = tuple(
            self._update_node(node, messages)
            for node, messages in zip(state.nodes, inbox, strict=True)
        )
        edges = tuple(
            tuple(
                self._update_edge(
                    edge, nodes[block.source], nodes[block.target][:, None]
                )
                if direction == 0
                else self._update_edge(
                    edge, nodes[block.target][:, None], nodes[block.source]
                )
                for edge, block in zip(states, graph.blocks, strict=True)
            )
            for direction, states in enumerate(state.edges)
        )
        return GraphState(nodes, edges)

    def _messages(
        self, direction: int, edge: Tensor, receiver: Tensor, sender: Tensor
    ) -> Tensor:
        """Return `[target, source, width]`, whichever end receives."""
        index = direction % len(self.scale_shift)
        scale, shift = self.scale_shift[index](edge).chunk(2, dim=-1)
        ends = self.from_receiver[index](receiver) + self.from_sender[index](sender)
        return scale * ends + shift

    def _update_node(self, node: Tensor, messages: list[Tensor]) -> Tensor:
        reduced = _reduce(node, messages)
        update = self.mix(self.update(torch.cat([node, reduced], dim=-1)))
        if self.is_residual:
            return self.norm(node + self.activation(update))
        return update if self.is_last else self.activation(self.norm(update))

    def _update_edge(self, edge: Tensor, source: Tensor, target: Tensor) -> Tensor:
        hidden = (
            self.edge_own(edge) + self.edge_source(source) + self.edge_target(target)
        )
        update = self.edge_out(self.activation(hidden))
        return edge + update if self.is_residual else update


def _reduce(node: Tensor, messages: list[Tensor]) -> Tensor:
    """Return mean, min, max and deviation of all messages, plain and amplified.

    Args:
        node: `[neuron, width]`, for its shape where there is no message.
        messages: tensors `[neuron, neighbour, width]`.

    Returns:
        `[neuron, 8 * width]`; zeros for a group that no block touches.
    """
    degree = sum(message.shape[1] for message in messages)
    if degree == 0:
        return node.new_zeros(*node.shape[:-1], _NUM_REDUCTIONS * node.shape[-1])
    mean = torch.stack([message.sum(1) for message in messages]).sum(0) / degree
    square = torch.stack([message.square().sum(1) for message in messages]).sum(0)
    low = torch.stack([message.amin(1) for message in messages]).amin(0)
    high = torch.stack([message.amax(1) for message in messages]).amax(0)
    deviation = ((square / degree - mean.square()).relu() + 1e-5).sqrt()
    plain = torch.cat([mean, low, high, deviation], dim=-1)
    return torch.cat([plain, plain * (log(degree + 1) / _TYPICAL_LOG_DEGREE)], dim=-1)


class NGGNNNet(nn.Module):
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
        super().__init__()
        self.config = config
        width = config.width
        if config.kernel is None:
            edge_channels, node_channels = 2 * num_features, 2 * num_features
        else:
            edge_channels = node_channels = config.kernel**2 * num_features
        if config.directions == "shared":
            edge_channels *= 3
        self.edge_in = nn.Linear(edge_channels, width)
        self.node_in = nn.Linear(node_channels, width)
        self.context_in = (
            nn.Linear(num_context, 2 * width, bias=False) if num_context else None
        )
        self.edge_mix = nn.Linear(width, width)
        self.node_mix = nn.Linear(width, width)
        self.layers = nn.ModuleList(
            MessageLayer(config, is_last=index == config.layers - 1)
            for index in range(config.layers)
        )
        self.edge_out = _read_out(width)
        self.node_out = _read_out(width)
        self.entry = FeedForward(
            config.head,
            num_features=num_features,
            num_context=num_context,
            num_structure=width,
            num_outputs=num_outputs,
        )

    @property
    def _grid(self) -> tuple[int, int] | None:
        kernel = self.config.kernel
        return None if kernel is None else (kernel, kernel)

    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the network cannot read a block of this graph."""
        if self._grid is not None:
            for block in graph.blocks:
                pad_cells(torch.zeros(1, 1, block.num_cells), block.cells, self._grid)

    def zero_last(self) -> None:
        """Make every output zero, whatever the input."""
        torch.nn.init.zeros_(self.entry.last.weight)
        torch.nn.init.zeros_(self.entry.last.bias)

    def forward(
        self,
        graph: NeuralGraph,
        features: Mapping[str, Tensor],
        contexts: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return `[*shape, num_outputs]` for every parameter.

        Args:
            graph: the optimizee's graph.
            features: `[*shape, num_features]` for every parameter.
            contexts: `[num_context]` for every parameter.
        """
        laid = to_blocks(graph, features)
        state = self._encode(graph, laid, contexts)
        for layer in self.layers:
            state = layer(graph, state)
        return from_blocks(graph, self._read(graph, laid, contexts, state))

    def _encode(
        self, graph: NeuralGraph, laid: Blocks, contexts: Mapping[str, Tensor]
    ) -> GraphState:
        positions = encode_positions(graph, self.config.width, self.edge_in.weight)
        owner = {node.group: node.parameter for node in graph.node_parameters}
        nodes = []
        for index, group in enumerate(graph.groups):
            node = positions[index].expand(group.size, -1)
            values = laid.nodes[index]
            if values is not None:
                summary = self.node_in(self._summary(values[:, None, None], ())[:, 0])
                summary = summary + self._context(contexts[owner[index]], 0)
                node = node + self.node_mix(summary)
            nodes.append(node)
        edges: list[list[Tensor]] = []
        for block, values in zip(graph.blocks, laid.edges, strict=True):
            context = self._context(contexts[block.parameter], 1)
            states = [
                self.edge_mix(self.edge_in(summary) + context)
                for summary in self._directed(self._summary(values, block.cells))
            ]
            edges.append(states)
        return GraphState(
            tuple(nodes),
            tuple(zip(*edges, strict=True)) if edges else ((),),
        )

    def _summary(self, values: Tensor, cells: tuple[int, ...]) -> Tensor:
        """Fold the cell axis of `[target, source, cell, feature]` into channels."""
        if self._grid is not None:
            return pad_cells(values, cells, self._grid).flatten(2)
        return torch.cat([values.mean(2), values.abs().mean(2)], dim=-1)

    def _directed(self, summary: Tensor) -> list[Tensor]:
        """Return the input of each edge state: one, or one a direction."""
        if self.config.directions == "own":
            return [summary]
        none = torch.zeros_like(summary)
        return [
            torch.cat([summary, none, summary], dim=-1),
            torch.cat([none, summary, summary], dim=-1),
        ]

    def _context(self, context: Tensor, part: int) -> Tensor | float:
        if self.context_in is None:
            return 0.0
        return self.context_in(context).chunk(2, dim=-1)[part]

    def _read(
        self,
        graph: NeuralGraph,
        laid: Blocks,
        contexts: Mapping[str, Tensor],
        state: GraphState,
    ) -> Blocks:
        edges = tuple(
            self.entry(
                values,
                contexts[block.parameter],
                self.edge_out(edge)[:, :, None],
            )
            for block, values, edge in zip(
                graph.blocks, laid.edges, state.edges[0], strict=True
            )
        )
        nodes: list[Tensor | None] = [None] * len(graph.groups)
        for item in graph.node_parameters:
            values = laid.nodes[item.group]
            assert values is not None
            nodes[item.group] = self.entry(
                values,
                contexts[item.parameter],
                self.node_out(state.nodes[item.group]),
            )
        return Blocks(edges, tuple(nodes))


def _read_out(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
