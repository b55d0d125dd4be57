"""From a configuration to a network."""

from typing import TypeAlias, assert_never

from .config import (
    FeedForwardConfig,
    LSTMConfig,
    NetConfig,
    NFNConfig,
    NGGNNConfig,
    NGTConfig,
)
from .feed_forward import FeedForwardNet
from .gnn import NGGNNNet
from .gnn_released import ReleasedNGGNNNet
from .lstm import LSTMNet
from .nfn import NFNNet
from .ng_t import NGTNet
from .ng_t_released import ReleasedNGTNet

Net: TypeAlias = FeedForwardNet | NGGNNNet | NGTNet | LSTMNet | NFNNet


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
    sizes = {
        "num_features": num_features,
        "num_context": num_context,
        "num_outputs": num_outputs,
    }
    match config:
        case FeedForwardConfig():
            return FeedForwardNet(config, **sizes)
        case NGGNNConfig(readout="released"):
            return ReleasedNGGNNNet(config, **sizes)
        case NGGNNConfig():
            return NGGNNNet(config, **sizes)
        case NGTConfig(readout="released"):
            return ReleasedNGTNet(config, **sizes)
        case NGTConfig():
            return NGTNet(config, **sizes)
        case LSTMConfig():
            return LSTMNet(config, **sizes)
        case NFNConfig():
            return NFNNet(config, **sizes)
        case _:
            assert_never(config)
