"""Learned networks: features laid on a neural graph in, numbers per parameter out."""

from .build import build_net as build_net
from .config import FeedForwardConfig as FeedForwardConfig
from .config import LSTMConfig as LSTMConfig
from .config import NetConfig as NetConfig
from .config import NeuronGNNConfig as NeuronGNNConfig
from .config import NFNConfig as NFNConfig
from .config import NGGNNConfig as NGGNNConfig
from .config import NGTConfig as NGTConfig
from .net import BuildsNet as BuildsNet
from .net import Net as Net
from .net import NetSizes as NetSizes
