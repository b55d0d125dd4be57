"""The names that `l2o` offers, each from the file that defines it."""

from .graph import NeuralGraph as NeuralGraph
from .graph.build import neural_graph as neural_graph
from .optim.optimizer import NeuralGraphOpt as NeuralGraphOpt
from .rule.checkpoint import load_rule as load_rule
from .rule.checkpoint import read_provenance as read_provenance
from .rule.checkpoint import save_rule as save_rule
from .rule.config import PRESETS as PRESETS
from .rule.config import RuleConfig as RuleConfig
from .rule.rule import AbstractRule as AbstractRule
from .rule.rule import Rule as Rule
from .rule.safety import SafetyConfig as SafetyConfig
from .rule.step import Hyper as Hyper
from .rule.step import guarded_step as guarded_step
from .rule.step import learned_step as learned_step
from .rule.theta import with_theta as with_theta
from .rule_metadata import shipped_rules as shipped_rules
