"""Compare shipped rules with tuned opponents on the paper's two tasks.

An opponent's learning rate is chosen by accuracy on validation images, in runs that do
not train on those; then it trains on all training images, as the rules do, and is
tested. Rules have nothing to choose.
"""

from functools import partial

from .contest import Contest
from .contest_report import NOTES, contest_tables, report_contest
from .opponents import OPPONENTS
from .runs import RESULTS
from .workers import run

__all__ = ["CONFIG", "ROWS", "report", "run"]

ROWS = RESULTS / "transfer.jsonl"

_OPPONENTS = ("adam", "adamw-cosine", "muon", "schedule-free", "sgd-cosine")

CONFIG = Contest(
    tasks=("fashion-cnn", "cifar-cnn"),
    opponents=_OPPONENTS,
    lrs={name: OPPONENTS[name].lrs for name in _OPPONENTS},
    untuned_lrs=(1e-3,),
    known=(RESULTS / "fashion.jsonl",),
    results=ROWS,
)

_NOTES = f"""\
{NOTES}

Losses are in nats. The training loss of schedule-free AdamW is taken where its
gradients are; its average, which is tested, is better.

The paper's figures are recalled, not verified; its Adam was tuned on a grid that we do
not know, and its CIFAR-10 were the official pixels."""


report = partial(
    report_contest,
    command="l2o benchmark transfer",
    heading="# Rules without tuning, against tuned opponents",
    notes=_NOTES,
    build_table=contest_tables,
)
"""Writes tables and curves next to a results file; returns the text."""
