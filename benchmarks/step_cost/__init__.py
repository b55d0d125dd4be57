"""What a step costs: learned optimizers, Adam and the network's own gradient."""

from .command import Measurement as Measurement
from .command import StepCostConfig as StepCostConfig
from .turns import Subject as Subject
from .turns import time_in_turns as time_in_turns
