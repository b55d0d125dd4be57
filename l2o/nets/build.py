"""From a configuration to a network."""

from typing import TypeAlias, assert_never

from .config import FeedForwardConfig, NetConfig, NGGNNConfig
from .feed_forward import FeedForwardNet
from .gnn import NGGNNNet

Net: TypeAlias = FeedForwardNet | NGGNNNet


def build_net(
    config: NetConfig, *, num_features: int, num_context: int, num_outputs: int
) -> Net:
    """Build the network that `config` describes.

    Args:
        config: the choice; its type picks the network.
        num_features: channels an entry of a parameter.
        num_context: channels a parameter tensor; 0 for none.
        num_outputs: numbers to return an entry.
    """
    match config:
        case FeedForwardConfig():
            return FeedForwardNet(
                config,
                num_features=num_features,
                num_context=num_context,
                num_outputs=num_outputs,
            )
        case NGGNNConfig():
            return NGGNNNet(
                config,
                num_features=num_features,
                num_context=num_context,
                num_outputs=num_outputs,
            )
        case _:
            assert_never(config)
