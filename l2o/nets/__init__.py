"""Learned networks: features laid on a neural graph in, numbers a parameter out."""

from .build import Net as Net
from .build import build_net as build_net
from .config import FeedForwardConfig as FeedForwardConfig
from .config import LSTMConfig as LSTMConfig
from .config import NetConfig as NetConfig
from .config import NFNConfig as NFNConfig
from .config import NGGNNConfig as NGGNNConfig
from .config import NGTConfig as NGTConfig
