"""Train for 5,000 steps, five times the length that the rules are selected on."""

from functools import partial

from .contest import Contest
from .contest_report import milliseconds, report_contest
from .optimizers import ADAM_LR
from .report import github_table
from .runs import RESULTS, Row
from .summary import groups, spread
from .workers import run

__all__ = ["CONFIG", "ROWS", "report", "run"]

ROWS = RESULTS / "long.jsonl"

CONFIG = Contest(
    tasks=("fashion-cnn",),
    with_teacher=False,
    untuned_lrs=(ADAM_LR,),
    steps=5000,
    evaluate_at=(0.2,),
    results=ROWS,
)

_NOTES = """\
Mean ± sample standard deviation over n seeds. Training loss: mean of the 50 steps
before, in nats. Diverged: runs that ended above the loss of their first batch, or whose
loss or weights stopped being finite; such a run counts in the accuracy if its weights
are finite. Behind a rule stands the beginning of its file's SHA-256."""


def _table(rows: list[Row]) -> str:
    first, last = (score["step"] for score in rows[0]["scores"])
    lines = [
        (
            group.label,
            len(group.rows),
            spread(group.values("accuracy", 0), 2, scale=100),
            spread(group.values("accuracy"), 2, scale=100),
            spread(group.values("train_loss", 0), 4),
            spread(group.values("train_loss"), 4),
            group.num_diverged,
            milliseconds(group),
        )
        for group in groups(rows, "test")
    ]
    return github_table(
        lines,
        (
            "optimizer",
            "n",
            f"test accuracy % at {first:,}",
            f"at {last:,}",
            f"training loss at {first:,}",
            f"at {last:,}",
            "diverged",
            "optimizer ms per step",
        ),
    )


report = partial(
    report_contest,
    command="l2o benchmark long",
    heading="# Five times the paper's length",
    notes=_NOTES,
    build_table=_table,
)
"""Writes tables and curves next to a results file; returns the text."""
