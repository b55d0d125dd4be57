"""Train networks to edit small networks, so that the lines of their images grow.

Defaults are the paper's. Finished runs are kept, and an interrupted one continues where
it stopped.
"""

from .command import ROWS as ROWS
from .command import InrEditingConfig
from .command import run_inr as run
from .report import report_inr as report

__all__ = ["CONFIG", "ROWS", "report", "run"]

CONFIG = InrEditingConfig()
