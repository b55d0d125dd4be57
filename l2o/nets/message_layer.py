"""The NG-GNN layer of the optimizer and of the companion, and the last states' map."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .config import Activation
from .fast_ops import Pointwise, add, linear
from .messages import NUM_REDUCTIONS, TYPICAL_LOG_DEGREE, Inbox


@runtime_checkable
class Edges(Protocol):
    """Edge states of a whole graph, in the form that suits who keeps them.

    The optimizer's are tiles (`TileStates`), one architecture at a time and mostly
    without autograd; the companion's are fans (`l2o.companion`), for batches of
    networks and mostly with autograd.
    """

    degree: Tensor
    """`[neuron]`, how many messages each neuron receives."""
    is_pure: bool
    """Whether nothing may be written in place, as autograd needs it."""

    def messages(
        self, layer: "MessageLayer", receive: list[Tensor], send: list[Tensor]
    ) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Yield what `Inbox.take` takes, piece by piece of the graph.

        Args:
            layer: its `scale_shift` modulates the messages.
            receive: `[neuron, width]` for each direction, states of the receivers.
            send: likewise, states of the senders.
        """
        ...

    def follow(self, layer: "MessageLayer", source: Tensor, target: Tensor) -> None:
        """Update the states by a layer.

        Args:
            layer: its `update_edge` says how.
            source: `[neuron, width]`, what a neuron adds to the edges it sends along.
            target: likewise, to the edges it receives from.
        """
        ...


class MessageLayer(nn.Module):
    r"""One NG-GNN layer: messages to the nodes, then an update of the edges.

    .. math::
        m_{ij} = scale(e_{ij}) (A v_i + B v_j) + shift(e_{ij}), \\quad
        v_i' = U [v_i, reduce_j m_{ij}], \\quad
        e_{ij}' = W_2 \\sigma(W_1 e_{ij} + C v_j' + D v_i')

    Messages run along and against every edge; those of both directions are reduced
    together per neuron.

    Args:
        width: channels of node and edge states.
        activation: pointwise function of nodes and edges.
        norm: of node states; None for a last layer, which returns its update as it is.
        own_directions: whether messages against the edges have weights of their own.
        residual_nodes: whether the update of a node is added to its state.
        residual_edges: whether the update of an edge is added to its state.
        has_edge_update: whether the edges are updated; a last layer whose edges nothing
            reads has no weights for it.
        dropout: share of node channels that are dropped after the update.
        typical_log_degree: log(degree + 1) where the amplification by degree is 1.

    Reference:
        Kofinas et al., 2024, Eq. 3-4; Corso et al., 2020, "Principal Neighbourhood
        Aggregation", https://arxiv.org/abs/2004.05718. Differences: `own_directions`
        and the residual sums are ours.
    """

    def __init__(
        self,
        width: int,
        *,
        activation: Activation,
        norm: nn.Module | None,
        own_directions: bool = False,
        residual_nodes: bool = False,
        residual_edges: bool = False,
        has_edge_update: bool = True,
        dropout: float = 0.0,
        typical_log_degree: float = TYPICAL_LOG_DEGREE,
    ) -> None:
        super().__init__()
        maps = 2 if own_directions else 1
        self.residual_nodes = residual_nodes
        self.residual_edges = residual_edges
        self.has_edge_update = has_edge_update
        self.typical_log_degree = typical_log_degree
        self.scale_shift = nn.ModuleList(
            nn.Linear(width, 2 * width) for _ in range(maps)
        )
        self.from_receiver = nn.ModuleList(nn.Linear(width, width) for _ in range(maps))
        self.from_sender = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(maps)
        )
        self.update = nn.Linear((1 + NUM_REDUCTIONS) * width, width)
        self.mix = nn.Linear(width, width)
        self.norm = norm
        self.activation = Pointwise(activation)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        if has_edge_update:
            self.edge_own = nn.Linear(width, width)
            self.edge_source = nn.Linear(width, width)
            self.edge_target = nn.Linear(width, width)
            self.edge_out = nn.Linear(width, width)

    def forward(self, nodes: Tensor, edges: Edges) -> Tensor:
        """Return the next node states `[neuron, width]` and update the edges."""
        inbox = Inbox(
            edges.degree,
            is_pure=edges.is_pure,
            typical_log_degree=self.typical_log_degree,
        )
        receive = [layer(nodes) for layer in self.from_receiver]
        send = [layer(nodes) for layer in self.from_sender]
        for received in edges.messages(self, receive, send):
            inbox.take(*received)
        nodes = self.dropout(inbox.follow(nodes, self.update_nodes))
        if self.has_edge_update:
            edges.follow(self, self.edge_source(nodes), self.edge_target(nodes))
        return nodes

    @property
    def modulations(self) -> list[nn.Linear]:
        """From an edge state to scale and shift; one map, or one per direction."""
        return [layer for layer in self.scale_shift if isinstance(layer, nn.Linear)]

    def update_nodes(self, nodes: Tensor, reduced: Tensor) -> Tensor:
        """Return the next `[neuron, width]` from what the messages were reduced to."""
        update = self.mix(self.update(torch.cat([nodes, reduced], dim=-1)))
        if self.norm is None:
            return update
        if self.residual_nodes:
            return self.norm(nodes + self.activation(update))
        return self.activation(self.norm(update))

    def update_edge(self, edge: Tensor, ends: Tensor) -> Tensor:
        """Return the next states of some edges.

        Args:
            edge: `[*edges, width]`, their states; overwritten without autograd.
            ends: `[*edges, width]`, what source and target add; likewise.
        """
        own, out = self.edge_own, self.edge_out
        hidden = self.activation(add(ends, linear(edge, own.weight, own.bias)))
        update = linear(hidden, out.weight, out.bias)
        return add(edge, update) if self.residual_edges else update


class ReadOut(nn.Sequential):
    """From the last state of a neuron or an edge to what its entries read.

    Args:
        width: channels of both.
    """

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def begin(self, states: Tensor) -> Tensor:
        """Return what enters the last map, `[..., width]`."""
        return self[1](self[0](states))

    @property
    def end(self) -> nn.Linear:
        """The last map."""
        last = self[2]
        assert isinstance(last, nn.Linear)
        return last
