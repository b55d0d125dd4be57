"""NG-GNN over the fans of a batch."""

from torch import Tensor, nn

from l2o.nets.message_layer import MessageLayer

from .config import NGGNNBackboneConfig
from .fan_states import FanStates, LastStates
from .network_inputs import Encoded
from .running_norm import RunningNorm


class GraphBackbone(nn.Module):
    """NG-GNN: message passing over all networks of a batch at once.

    Args:
        config: sizes.

    Reference:
        Kofinas et al., 2024, Eq. 3-4, with weights shared by both directions.
        Differences: the norm has running values (`RunningNorm`) instead of those of the
        batch, and the degrees that amplify count reversed edges.
    """

    def __init__(self, config: NGGNNBackboneConfig) -> None:
        super().__init__()
        last = config.layers - 1
        self.layers = nn.ModuleList(
            _layer(config, is_last=index == last) for index in range(config.layers)
        )

    def forward(self, encoded: Encoded) -> LastStates:
        """Return the last states; the edges' are those that the last layer read."""
        nodes: Tensor = encoded.nodes
        edges = FanStates(encoded.graph, encoded.edges)
        for layer in self.layers:
            nodes = layer(nodes, edges)
        return LastStates(nodes, edges.along_weights())


def _layer(config: NGGNNBackboneConfig, *, is_last: bool) -> MessageLayer:
    """Return a layer; the last one has neither norm nor an update of the edges."""
    return MessageLayer(
        config.width,
        activation="silu",
        norm=None if is_last else RunningNorm(config.width),
        residual_nodes=config.residual,
        has_edge_update=not is_last,
        dropout=0.0 if is_last else config.dropout,
        typical_log_degree=config.typical_log_degree,
    )
