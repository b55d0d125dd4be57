"""Networks as graphs: neurons are nodes, weights are edges. No learning here."""

from .caching import derived as derived
from .layout import Blocks as Blocks
from .layout import from_blocks as from_blocks
from .layout import to_blocks as to_blocks
from .neural_graph import NeuralGraph as NeuralGraph
from .neural_graph import NeuronGroup as NeuronGroup
from .neural_graph import Neurons as Neurons
from .neural_graph import NodeParameter as NodeParameter
from .neural_graph import Operation as Operation
from .neural_graph import Symmetry as Symmetry
from .neural_graph import Tie as Tie
from .neural_graph import Unplaced as Unplaced
from .neural_graph import View as View
from .neural_graph import WeightBlock as WeightBlock
from .pyg import EDGE_TYPES as EDGE_TYPES
from .pyg import NODE_TYPES as NODE_TYPES
from .pyg import from_pyg as from_pyg
from .pyg import to_pyg as to_pyg
from .symmetry import permute_parameters as permute_parameters
from .symmetry import random_permutations as random_permutations
