"""Rules: state, features, directions, network, head, and the pure step.

The configuration of a rule and of each of its parts can be imported from here.
"""

from l2o.nets import FeedForwardConfig as FeedForwardConfig
from l2o.nets import LSTMConfig as LSTMConfig
from l2o.nets import NetConfig as NetConfig
from l2o.nets import NFNConfig as NFNConfig
from l2o.nets import NGGNNConfig as NGGNNConfig
from l2o.nets import NGTConfig as NGTConfig

from .config import PRESETS as PRESETS
from .config import FeaturesConfig as FeaturesConfig
from .config import HeadConfig as HeadConfig
from .config import LogSignFeaturesConfig as LogSignFeaturesConfig
from .config import NominalHeadConfig as NominalHeadConfig
from .config import PaperHeadConfig as PaperHeadConfig
from .config import RuleConfig as RuleConfig
from .config import ScaleFreeFeaturesConfig as ScaleFreeFeaturesConfig
