"""Measure the cost of a step, compared with forward and backward and with Adam.

Each pair of network and subject runs in a process of its own, so that its memory can be
measured and its failure ends nothing else. Rows of the same commit and settings are
kept: an interrupted run continues, unless Python files differ from the commit.
"""

from .command import CONFIG as CONFIG
from .command import ROWS as ROWS
from .command import run as run
from .report import report_step_cost as report

__all__ = ["CONFIG", "ROWS", "report", "run"]
