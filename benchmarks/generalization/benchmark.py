"""Predict the test accuracy of trained CNNs from their weights.

Each predictor is trained on some networks, the epoch is chosen on others, and the
result is measured once, on networks that decided nothing. Make the networks first, with
`l2o data wild-park` or `l2o data cnn-zoo`. Finished runs are kept, and an interrupted
one continues where it stopped.
"""

from .command import ROWS as ROWS
from .command import GeneralizationConfig
from .command import run_generalization as run
from .report import report_generalization as report

__all__ = ["CONFIG", "ROWS", "report", "run"]

CONFIG = GeneralizationConfig()
