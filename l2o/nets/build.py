"""From a configuration to a network."""

from typing import assert_never

from torch import nn

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
from .net import BuildsNet, Net, NetSizes
from .nfn import NFNNet
from .ng_t import NGTNet
from .ng_t_released import ReleasedNGTNet


def build_net(config: NetConfig | BuildsNet | nn.Module, sizes: NetSizes) -> Net:
    """Return the network that `config` describes.

    Args:
        config: one of the library's configurations, whose type picks the network; or
            any object with a method `build` (see `BuildsNet`); or a module that is a
            `Net` already, which is returned as it is.
        sizes: channels in and out.

    Raises:
        TypeError: if what `config` is or builds is no `Net`.

    Example:
        >>> sizes = NetSizes(num_features=4, num_outputs=2)
        >>> net = build_net(FeedForwardConfig(width=8), sizes)
        >>> isinstance(net, Net)
        True
    """
    match config:
        case FeedForwardConfig():
            return FeedForwardNet(config, sizes)
        case NGGNNConfig(readout="released"):
            return ReleasedNGGNNNet(config, sizes)
        case NGGNNConfig():
            return NGGNNNet(config, sizes)
        case NGTConfig(readout="released"):
            return ReleasedNGTNet(config, sizes)
        case NGTConfig():
            return NGTNet(config, sizes)
        case LSTMConfig():
            return LSTMNet(config, sizes)
        case NFNConfig():
            return NFNNet(config, sizes)
        case nn.Module():
            return _checked(config)
        case BuildsNet():
            return _checked(config.build(sizes))
        case _:
            assert_never(config)


def _checked(net: object) -> Net:
    """Return a network from outside the library if it has what a rule needs."""
    if not (isinstance(net, nn.Module) and isinstance(net, Net)):
        raise TypeError(
            "build_net needs a torch.nn.Module with the methods check, forward and "
            f"zero_last; got {type(net).__name__}. See l2o.nets.Net."
        )
    return net
