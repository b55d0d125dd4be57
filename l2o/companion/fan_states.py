"""Edge states of the fans of a batch, and what a backbone returns."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from l2o.nets.message_layer import Edges, MessageLayer
from l2o.nets.messages import reduce_in_cache

from .union_graph import UnionGraph


class FanStates(Edges):
    """Edge states that are not written out, only what they are a linear map of.

    Whatever reads them starts with a linear map of its own, which is multiplied with
    the pending one. So an edge takes one matrix product instead of two.

    Args:
        graph: where neurons and edges are.
        inner: for each fan `[part, receiver, sender, channel]`.
        pending: the map that turns `inner` into states; None for the identity.
    """

    is_pure = True

    def __init__(
        self, graph: UnionGraph, inner: list[Tensor], pending: nn.Linear | None = None
    ) -> None:
        self.graph = graph
        self.degree = graph.degree
        self.inner = inner
        self.pending = pending

    @override
    def messages(
        self, layer: MessageLayer, receive: list[Tensor], send: list[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        (modulate,) = layer.modulations
        for fan, modulation in zip(self.graph.fans, self.mapped(modulate), strict=True):
            ends = _at(receive[0], fan.receivers), _at(send[0], fan.senders)
            yield fan.receivers, *reduce_in_cache(modulation, *ends)

    @override
    def follow(self, layer: MessageLayer, source: Tensor, target: Tensor) -> None:
        assert not layer.residual_edges
        self.inner = [
            layer.activation(
                own.add_(_at(target, fan.receivers)[:, :, None]).add_(
                    _at(source, fan.senders)[:, None]
                )
            )
            for own, fan in zip(
                self.mapped(layer.edge_own), self.graph.fans, strict=True
            )
        ]
        self.pending = layer.edge_out

    def mapped(self, layer: nn.Linear) -> Iterator[Tensor]:
        """Yield each fan's states after a linear map, as new tensors."""
        weight, bias = layer.weight, layer.bias
        if self.pending is not None:
            bias = F.linear(self.pending.bias, weight, bias)
            weight = weight @ self.pending.weight
        for inner in self.inner:
            yield F.linear(inner, weight, bias)

    def along_weights(self) -> "FanStates":
        """Return the states of the fans along the weights, to be read."""
        inner = self.inner[: self.graph.num_forward]
        return FanStates(self.graph, inner, self.pending)


@dataclass(frozen=True, slots=True)
class LastStates:
    """The last states of all networks of a batch."""

    nodes: Tensor
    """`[neuron, node width]`."""
    edges: FanStates
    """Of the fans along the weights."""


def _at(nodes: Tensor, numbers: Tensor) -> Tensor:
    """Return the states of some neurons, `[part, neuron, width]`."""
    return nodes.index_select(0, numbers.flatten()).view(*numbers.shape, -1)
