"""Learned optimizers that see the network they train."""

from .graph import NeuralGraph as NeuralGraph
from .graph.ladder import neural_graph as neural_graph
from .optim.checkpoint import load_rule as load_rule
from .optim.checkpoint import read_provenance as read_provenance
from .optim.checkpoint import save_rule as save_rule
from .optim.checkpoint import shipped_rules as shipped_rules
from .optim.config import PRESETS as PRESETS
from .optim.config import RuleConfig as RuleConfig
from .optim.hub import from_pretrained as from_pretrained
from .optim.hub import push_to_hub as push_to_hub
from .optim.hub import save_pretrained as save_pretrained
from .optim.model_card import model_card as model_card
from .optim.optimizer import NeuralGraphOpt as NeuralGraphOpt
from .optim.rule import AbstractRule as AbstractRule
from .optim.rule import Rule as Rule
from .optim.safety import SafetyConfig as SafetyConfig
from .optim.safety import guarded_step as guarded_step
from .optim.step import Hyper as Hyper
from .optim.step import learned_step as learned_step
from .optim.theta import with_theta as with_theta
