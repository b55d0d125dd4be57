"""Rules: state, features, directions, network, head, and the pure step.

The configuration of a rule and of each of its parts can be imported from here.
"""

from l2o.nets import FeedForwardConfig as FeedForwardConfig
from l2o.nets import LSTMConfig as LSTMConfig
from l2o.nets import NetConfig as NetConfig
from l2o.nets import NFNConfig as NFNConfig
from l2o.nets import NGGNNConfig as NGGNNConfig
from l2o.nets import NGTConfig as NGTConfig
from l2o.nets.config import NeuronGNNConfig as NeuronGNNConfig

from .config import PRESETS as PRESETS
from .config import RuleConfig as RuleConfig
from .directions import DirectionConfig as DirectionConfig
from .directions import GradientConfig as GradientConfig
from .directions import MomentaConfig as MomentaConfig
from .directions import WhitenedConfig as WhitenedConfig
from .features import FeaturesConfig as FeaturesConfig
from .features import LogSignFeaturesConfig as LogSignFeaturesConfig
from .features import ScaleFreeFeaturesConfig as ScaleFreeFeaturesConfig
from .head import HeadConfig as HeadConfig
from .head import NominalHeadConfig as NominalHeadConfig
from .head import PaperHeadConfig as PaperHeadConfig
from .neuron_config import NeuronRuleConfig as NeuronRuleConfig
from .state import Averages as Averages
