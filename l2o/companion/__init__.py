"""Graph networks on trained networks as data: classify, edit, predict."""

from .architecture import layered_graph as layered_graph
from .batch import NetworkBatch as NetworkBatch
from .batch import NetworkStack as NetworkStack
from .batch import collate_networks as collate_networks
from .batch import stack_networks as stack_networks
from .config import CompanionConfig as CompanionConfig
from .config import InputsConfig as InputsConfig
from .config import NGGNNBackboneConfig as NGGNNBackboneConfig
from .config import NGTBackboneConfig as NGTBackboneConfig
from .config import ReadoutConfig as ReadoutConfig
from .models import NetworkClassifier as NetworkClassifier
from .models import NetworkEditor as NetworkEditor
from .models import NetworkPredictor as NetworkPredictor
from .presets import PAPER_ACTIVATIONS as PAPER_ACTIVATIONS
from .presets import inr_classifier as inr_classifier
from .presets import inr_editor as inr_editor
from .presets import park_predictor as park_predictor
from .presets import zoo_predictor as zoo_predictor
from .probes import Evaluate as Evaluate
from .union_graph import typical_log_degree as typical_log_degree
