"""Train networks to name the class of the image that a small network represents.

Defaults are the paper's. Finished runs are kept, and an interrupted one continues where
it stopped.
"""

from .command import ROWS as ROWS
from .command import InrClassificationConfig
from .command import run_inr as run
from .report import report_inr as report

__all__ = ["CONFIG", "ROWS", "report", "run"]

CONFIG = InrClassificationConfig()
