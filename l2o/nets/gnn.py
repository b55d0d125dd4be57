"""NG-GNN: message passing over a neural graph, on dense blocks.

A block is a full bipartite piece of the graph, so its edge states form one tensor
`[part, target, source, width]`, both end states enter by broadcasting, and messages are
reduced over one of its axes. Only neurons, of which there are far fewer than edges, are
gathered and scattered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.graph import NeuralGraph, from_blocks, to_blocks
from l2o.graph.encodings import encode_positions
from l2o.graph.layout import pad_cells
from l2o.graph.stacks import (
    EdgeStack,
    Stacked,
    Stacks,
    find_stacks,
    stack_values,
    unstack_values,
)

from .config import NGGNNConfig
from .feed_forward import FeedForward, build_activation

_NUM_REDUCTIONS = 8
"""Mean, minimum, maximum, deviation, each plain and amplified by degree."""

TYPICAL_LOG_DEGREE = log(32.0)
"""Where the amplification is 1: a neuron with 31 neighbours."""


@dataclass(frozen=True, slots=True)
class GraphState:
    """Node states `[neuron, width]`, edge states `[part, target, source, width]`.

    `edges[d][k]` is stack k's state for direction d. Where both directions share one
    state, `edges` has one entry.
    """

    nodes: Tensor
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

    def forward(self, stacks: Stacks, state: GraphState) -> GraphState:
        """Return the next states; shapes stay."""
        inbox = _Inbox(stacks)
        receive = [layer(state.nodes) for layer in self.from_receiver]
        send = [layer(state.nodes) for layer in self.from_sender]
        for stack, along, against in zip(
            stacks.edges, state.edges[0], state.edges[-1], strict=True
        ):
            ends = _targets(receive[0], stack) + _sources(send[0], stack)
            inbox.add(stack.target, self._messages(0, along, ends), axis=2)
            ends = _sources(receive[-1], stack) + _targets(send[-1], stack)
            inbox.add(stack.source, self._messages(-1, against, ends), axis=1)
        nodes = self.update_nodes(state.nodes, inbox.reduce(state.nodes))
        own, other = self.edge_source(nodes), self.edge_target(nodes)
        edges = []
        for direction, states in enumerate(state.edges):
            updated = []
            for stack, edge in zip(stacks.edges, states, strict=True):
                if direction == 0:
                    ends = _sources(own, stack) + _targets(other, stack)
                else:
                    ends = _targets(own, stack) + _sources(other, stack)
                updated.append(self.update_edge(edge, ends))
            edges.append(tuple(updated))
        return GraphState(nodes, tuple(edges))

    def _messages(self, way: int, edge: Tensor, ends: Tensor) -> Tensor:
        """Return `[part, target, source, width]`, whichever end receives."""
        scale, shift = self.scale_shift[way](edge).chunk(2, dim=-1)
        return scale * ends + shift

    def update_nodes(self, nodes: Tensor, reduced: Tensor) -> Tensor:
        """Return the next `[neuron, width]` from what the messages were reduced to."""
        update = self.mix(self.update(torch.cat([nodes, reduced], dim=-1)))
        if self.is_residual:
            return self.norm(nodes + self.activation(update))
        return update if self.is_last else self.activation(self.norm(update))

    def update_edge(self, edge: Tensor, ends: Tensor) -> Tensor:
        """Return the next states of some edges from these and their ends' shares."""
        update = self.edge_out(self.activation(self.edge_own(edge) + ends))
        return edge + update if self.is_residual else update


class _Inbox:
    """Messages of all stacks, reduced a neuron: mean, min, max and deviation."""

    def __init__(self, stacks: Stacks) -> None:
        self.degree = stacks.degree
        self.neurons: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.lows: list[Tensor] = []

    def add(self, neurons: Tensor, messages: Tensor, *, axis: int) -> None:
        """Take the messages of one stack.

        Args:
            neurons: `[part, receiver]`.
            messages: `[part, target, source, width]`.
            axis: the senders' axis.
        """
        total, square = messages.sum(axis), messages.square().sum(axis)
        low, high = messages.amin(axis), messages.amax(axis)
        self.neurons.append(neurons.flatten())
        self.sums.append(torch.cat([total, square], dim=-1).flatten(0, 1))
        self.lows.append(torch.cat([low, -high], dim=-1).flatten(0, 1))

    def reduce(self, nodes: Tensor) -> Tensor:
        """Return the four, plain and amplified by degree.

        Args:
            nodes: `[neuron, width]`, for its shape and type.

        Returns:
            `[neuron, 8 * width]`; zeros for a neuron that no edge touches.
        """
        if not self.neurons:
            return nodes.new_zeros(len(nodes), _NUM_REDUCTIONS * nodes.shape[-1])
        index, sums, lows = (
            torch.cat(items) for items in (self.neurons, self.sums, self.lows)
        )
        empty = nodes.new_zeros(len(nodes), sums.shape[-1])
        degree = self.degree.to(nodes.dtype)[:, None]
        total = torch.index_add(empty, 0, index, sums) / degree.clamp_min(1)
        mean, square = total.chunk(2, dim=-1)
        low, high = torch.scatter_reduce(
            empty, 0, index[:, None].expand_as(lows), lows, "amin", include_self=False
        ).chunk(2, dim=-1)
        deviation = ((square - mean.square()).relu() + 1e-5).sqrt() * (degree > 0)
        plain = torch.cat([mean, low, -high, deviation], dim=-1)
        amplifier = torch.log(degree + 1) / TYPICAL_LOG_DEGREE
        return torch.cat([plain, plain * amplifier], dim=-1)


def _targets(nodes: Tensor, stack: EdgeStack) -> Tensor:
    """Return each edge's target, to broadcast: `[part, target, 1, width]`."""
    found = nodes.index_select(0, stack.target.flatten())
    return found.reshape(*stack.target.shape, 1, -1)


def _sources(nodes: Tensor, stack: EdgeStack) -> Tensor:
    """Return each edge's source, to broadcast: `[part, 1, source, width]`."""
    found = nodes.index_select(0, stack.source.flatten())
    return found.reshape(len(stack.source), 1, stack.source.shape[1], -1)


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
    def message_layers(self) -> list[MessageLayer]:
        """The message-passing layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, MessageLayer)]

    @property
    def _grid(self) -> tuple[int, int] | None:
        kernel = self.config.kernel
        return None if kernel is None else (kernel, kernel)

    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the network cannot read a block of this graph."""
        like = self.edge_in.weight
        stacks = find_stacks(graph, like.device)
        _positions(graph, self.config.width, like)
        if self._grid is not None:
            for stack in (*stacks.edges, *stacks.nodes):
                cell = torch.zeros(1, 1, prod(stack.cells))
                pad_cells(cell, stack.cells, self._grid)

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
        stacks = find_stacks(graph, self.edge_in.weight.device)
        values = stack_values(stacks, to_blocks(graph, features))
        context = torch.stack([contexts[name] for name in graph.shapes])
        state = self._encode(graph, stacks, values, context)
        for layer in self.layers:
            state = layer(stacks, state)
        outputs = self._read(stacks, values, context, state)
        return from_blocks(graph, unstack_values(graph, stacks, outputs))

    def _encode(
        self, graph: NeuralGraph, stacks: Stacks, values: Stacked, context: Tensor
    ) -> GraphState:
        """Return the states before the first message."""
        like = self.edge_in.weight
        nodes = _positions(graph, self.config.width, like)
        shared = self.context_parts(context)
        for stack, value in zip(stacks.nodes, values.nodes, strict=True):
            summary = self.node_in(self.summarize(value[:, None, None], stack.cells))
            summary = summary[:, 0, 0] + shared[0].index_select(0, stack.owner)
            nodes = nodes.index_add(0, stack.neurons, self.node_mix(summary))
        edges = []
        for stack, value in zip(stacks.edges, values.edges, strict=True):
            extra = shared[1].index_select(0, stack.owner)[:, None, None]
            states = [
                self.edge_mix(self.edge_in(summary) + extra)
                for summary in self.directed(self.summarize(value, stack.cells))
            ]
            edges.append(states)
        return GraphState(nodes, tuple(zip(*edges, strict=True)) if edges else ((),))

    def summarize(self, values: Tensor, cells: tuple[int, ...]) -> Tensor:
        """Fold the cell axis of `[..., source, cell, feature]` into channels."""
        if self._grid is None:
            return torch.cat([values.mean(-2), values.abs().mean(-2)], dim=-1)
        padded = pad_cells(values.flatten(0, 1), cells, self._grid).flatten(2)
        return padded.unflatten(0, values.shape[:2])

    def directed(self, summary: Tensor) -> list[Tensor]:
        """Return the input of each edge state: one, or one a direction."""
        if self.config.directions == "own":
            return [summary]
        none = torch.zeros_like(summary)
        return [
            torch.cat([summary, none, summary], dim=-1),
            torch.cat([none, summary, summary], dim=-1),
        ]

    def context_parts(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a tensor adds to its nodes and edges: `[tensor + 1, width]`.

        The last row is for ties, which have no tensor.
        """
        if self.context_in is None:
            none = context.new_zeros(len(context) + 1, self.config.width)
            return none, none
        nodes, edges = F.pad(self.context_in(context), (0, 0, 0, 1)).chunk(2, dim=-1)
        return nodes, edges

    def _read(
        self, stacks: Stacks, values: Stacked, context: Tensor, state: GraphState
    ) -> Stacked:
        """Return the outputs of every entry that a stack owns."""
        edges = []
        for stack, value, edge in zip(
            stacks.edges, values.edges, state.edges[0], strict=True
        ):
            owned = slice(stack.num_owned)
            shared = context.index_select(0, stack.owner[owned])[:, None, None, None]
            structure = self.edge_out(edge[owned])[..., None, :]
            edges.append(self.entry(value[owned], shared, structure))
        nodes = []
        for stack, value in zip(stacks.nodes, values.nodes, strict=True):
            shared = context.index_select(0, stack.owner)[:, None]
            node = state.nodes.index_select(0, stack.neurons)
            nodes.append(self.entry(value, shared, self.node_out(node)[:, None]))
        return Stacked(tuple(edges), tuple(nodes))


def _positions(graph: NeuralGraph, width: int, like: Tensor) -> Tensor:
    """Return the encoding of every neuron, `[neuron, width]`; computed once."""
    key = ("positions", width, like.dtype, like.device)
    if key not in graph.derived:
        groups = encode_positions(graph, width, like.detach())
        graph.derived[key] = torch.cat(
            [
                item.expand(group.size, -1)
                for item, group in zip(groups, graph.groups, strict=True)
            ]
        )
    return graph.derived[key]


def _read_out(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
