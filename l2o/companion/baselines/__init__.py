"""Baselines without a neural graph, for trained networks as data."""

from .config import BaselineConfig as BaselineConfig
from .config import DWSNetConfig as DWSNetConfig
from .config import EditorConfig as EditorConfig
from .config import FunctionalConfig as FunctionalConfig
from .config import MLPConfig as MLPConfig
from .config import SetNNConfig as SetNNConfig
from .config import StatNNConfig as StatNNConfig
from .models import BaselineClassifier as BaselineClassifier
from .models import BaselineEditor as BaselineEditor
from .models import BaselinePredictor as BaselinePredictor
