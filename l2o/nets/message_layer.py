"""One layer of NG-GNN on the tiles of a graph, and what reads its last states."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from l2o.graph.tiles import EdgeTile

from .config import NGGNNConfig
from .fast_ops import Pointwise, add, linear
from .inbox import NUM_REDUCTIONS, Inbox, reduced
from .thread_map import as_they_come


@runtime_checkable
class Edges(Protocol):
    """The edge states of all tiles."""

    def new_inbox(self) -> Inbox:
        """Return an empty inbox for all neurons."""
        ...

    def get(self, index: int) -> list[Tensor]:
        """Return a tile's states, `[part, target, source, width]`, one a direction."""
        ...

    def follow(self, layer: "MessageLayer", source: Tensor, target: Tensor) -> None:
        """Let the states pass through a layer, from what its neurons now say."""
        ...


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
        has_edge_update: whether the edges follow; a last layer whose edges nobody reads
            does without the weights.

    Reference:
        Kofinas et al., 2024, Eq. 3-4; Corso et al., 2020, "Principal Neighbourhood
        Aggregation", https://arxiv.org/abs/2004.05718. Differences: the norm is per
        node, never over a batch; `directions="own"` and `residual` are ours.
    """

    def __init__(
        self, config: NGGNNConfig, *, is_last: bool, has_edge_update: bool = True
    ) -> None:
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
        self.update = nn.Linear((1 + NUM_REDUCTIONS) * width, width)
        self.mix = nn.Linear(width, width)
        has_norm = config.residual or not is_last
        self.norm = nn.LayerNorm(width) if has_norm else nn.Identity()
        self.activation = Pointwise(config.activation)
        if has_edge_update:
            self.edge_own = nn.Linear(width, width)
            self.edge_source = nn.Linear(width, width)
            self.edge_target = nn.Linear(width, width)
            self.edge_out = nn.Linear(width, width)

    def forward(self, nodes: Tensor, tiles: Sequence[EdgeTile], edges: Edges) -> Tensor:
        """Return the next node states `[neuron, width]`; let the edges follow."""
        inbox = edges.new_inbox()
        receive = [layer(nodes) for layer in self.from_receiver]
        send = [layer(nodes) for layer in self.from_sender]
        modulate = self._modulation()

        def messages(index: int) -> list[tuple[Tensor, Tensor]]:
            tile = tiles[index]
            (scale, shift), (other_scale, other_shift) = modulate(edges.get(index))
            ends = at_targets(receive[0], tile) + at_sources(send[0], tile)
            along = reduced(torch.addcmul(shift, scale, ends), 2)
            ends = at_sources(receive[-1], tile) + at_targets(send[-1], tile)
            against = torch.addcmul(other_shift, other_scale, ends)
            return [along, reduced(against, 1)]

        found = as_they_come(messages, range(len(tiles)), nodes.device)
        for tile, (along, against) in zip(tiles, found, strict=True):
            inbox.take(tile.target, *along)
            inbox.take(tile.source, *against)
        nodes = inbox.follow(nodes, self.update_nodes)
        edges.follow(self, self.edge_source(nodes), self.edge_target(nodes))
        return nodes

    def _modulation(self) -> Callable[[list[Tensor]], list[Sequence[Tensor]]]:
        """Return what makes scale and shift of messages along and against edges."""
        maps = [layer for layer in self.scale_shift if isinstance(layer, nn.Linear)]
        weight = torch.cat([layer.weight for layer in maps])
        bias = torch.cat([layer.bias for layer in maps])

        def modulate(states: list[Tensor]) -> list[Sequence[Tensor]]:
            found = [linear(state, weight, bias) for state in states]
            parts = [part for both in found for part in both.chunk(2 * len(maps), -1)]
            return [parts[:2], parts[2:]]

        return modulate

    def update_nodes(self, nodes: Tensor, reduced: Tensor) -> Tensor:
        """Return the next `[neuron, width]` from what the messages were reduced to."""
        update = self.mix(self.update(torch.cat([nodes, reduced], dim=-1)))
        if self.is_residual:
            return self.norm(nodes + self.activation(update))
        return update if self.is_last else self.activation(self.norm(update))

    def update_edge(self, edge: Tensor, ends: Tensor) -> Tensor:
        """Return the next states of some edges from these and their ends' shares.

        Args:
            edge: `[*edges, width]`; without autograd it is written over.
            ends: `[*edges, width]`, what source and target add; likewise.
        """
        update = self.edge_update(edge, ends)
        return add(edge, update) if self.is_residual else update

    def edge_update(self, edge: Tensor, ends: Tensor) -> Tensor:
        """Return what `update_edge` does of a layer that is not residual."""
        own, out = self.edge_own, self.edge_out
        hidden = self.activation(add(ends, linear(edge, own.weight, own.bias)))
        return linear(hidden, out.weight, out.bias)


class ReadOut(nn.Sequential):
    """From the last state of a neuron or an edge to what its entries see of it.

    Args:
        width: channels of both.
    """

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def begin(self, states: Tensor) -> Tensor:
        """Return all but the last map, `[..., width]`."""
        return self[1](self[0](states))

    @property
    def end(self) -> nn.Linear:
        """The last map."""
        last = self[2]
        assert isinstance(last, nn.Linear)
        return last


def at_targets(nodes: Tensor, tile: EdgeTile) -> Tensor:
    """Return the states of each edge's target, to broadcast.

    Args:
        nodes: `[neuron, width]`.
        tile: which edges.

    Returns:
        `[part, target, 1, width]`.
    """
    found = nodes.index_select(0, tile.target.flatten())
    return found.reshape(*tile.target.shape, 1, -1)


def at_sources(nodes: Tensor, tile: EdgeTile) -> Tensor:
    """Return the states of each edge's source, `[part, 1, source, width]`."""
    found = nodes.index_select(0, tile.source.flatten())
    return found.reshape(len(tile.source), 1, tile.source.shape[1], -1)
