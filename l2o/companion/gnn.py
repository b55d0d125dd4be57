"""NG-GNN over the fans of a batch."""

from collections.abc import Sequence

from torch import Tensor, nn

from l2o.nets import NGGNNConfig
from l2o.nets.inbox import Inbox
from l2o.nets.message_layer import MessageLayer

from .config import NGGNNBackboneConfig
from .inputs import Encoded
from .messages import reduce_messages
from .states import EdgeStates, States
from .wiring import Wiring


class GraphBackbone(nn.Module):
    """NG-GNN: message passing over all networks of a batch at once.

    Args:
        config: sizes.

    Reference:
        Kofinas et al., 2024, Eq. 3-4, with weights shared by both directions. The norm
        is per neuron, never over a batch, and the degrees that amplify count reversed
        edges.
    """

    def __init__(self, config: NGGNNBackboneConfig) -> None:
        super().__init__()
        self.typical_log_degree = config.typical_log_degree
        self.layers = nn.ModuleList(
            MessageLayer(
                NGGNNConfig(
                    width=config.width,
                    layers=config.layers,
                    directions="shared",
                    residual=config.residual and not is_last,
                ),
                is_last=is_last,
                has_edge_update=not is_last,
            )
            for is_last in [False] * (config.layers - 1) + [True]
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, encoded: Encoded) -> States:
        """Return the last states; the edges' are those that the last layer read."""
        wiring, nodes = encoded.wiring, encoded.nodes
        edges = EdgeStates(encoded.edges)
        for layer in self.layers:
            assert isinstance(layer, MessageLayer)
            modulate = layer.scale_shift[0]
            assert isinstance(modulate, nn.Linear)
            maps = [modulate]
            if not layer.is_last:
                maps.append(layer.edge_own)
            mapped = edges.through(*maps)
            nodes = self._update_nodes(layer, nodes, wiring, [own[0] for own in mapped])
            if not layer.is_last:
                nodes = self.dropout(nodes)
                source, target = layer.edge_source(nodes), layer.edge_target(nodes)
                inner = [
                    layer.activation(
                        own.add_(_at(target, fan.receivers)[:, :, None]).add_(
                            _at(source, fan.senders)[:, None]
                        )
                    )
                    for (_, own), fan in zip(mapped, wiring.fans, strict=True)
                ]
                edges = EdgeStates(inner, layer.edge_out)
        along = edges.inner[: wiring.num_forward]
        return States(nodes, EdgeStates(along, edges.due))

    def _update_nodes(
        self,
        layer: MessageLayer,
        nodes: Tensor,
        wiring: Wiring,
        modulations: Sequence[Tensor],
    ) -> Tensor:
        """Send messages along all fans and return the next node states."""
        inbox = Inbox(
            wiring.degree, is_pure=True, typical_log_degree=self.typical_log_degree
        )
        receive, send = layer.from_receiver[0](nodes), layer.from_sender[0](nodes)
        for fan, modulation in zip(wiring.fans, modulations, strict=True):
            ends = _at(receive, fan.receivers), _at(send, fan.senders)
            inbox.take(fan.receivers, *reduce_messages(modulation, *ends))
        return layer.update_nodes(nodes, inbox.reduce(nodes))


def _at(nodes: Tensor, numbers: Tensor) -> Tensor:
    """Return the states of some neurons, `[part, place, width]`."""
    return nodes.index_select(0, numbers.flatten()).view(*numbers.shape, -1)
