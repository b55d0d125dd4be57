"""Compare shipped rules with Adam on the paper's FashionMNIST task.

A small CNN, 1,000 steps. Every optimizer trains on all training images and is tested on
the test images. Adam's learning rate is chosen beforehand, on the validation images;
every rate of its grid is tested, too.
"""

from functools import partial

from .contest import Contest
from .contest_report import PAPER_ACCURACY, milliseconds, report_contest
from .opponents import OPPONENTS
from .report import github_table
from .runs import RESULTS, Row
from .summary import best_rate, groups, spread
from .workers import run

__all__ = ["CONFIG", "ROWS", "report", "run"]

ROWS = RESULTS / "fashion.jsonl"

CONFIG = Contest(
    tasks=("fashion-cnn",),
    bfloat16_rules=("ng-gnn",),
    grouped_rules=("ng-gnn",),
    opponents=("adam",),
    lrs={"adam": OPPONENTS["adam"].lrs},
    extensions=0,
    test_all_lrs=True,
    results=ROWS,
)

_NOTES = """\
Mean ± sample standard deviation over n seeds. Training loss: mean of the last 50 steps,
in nats. Diverged: runs that ended above the loss of their first batch, or whose loss or
weights stopped being finite; such a run counts in the accuracy if its weights are
finite. Adam's learning rate is *chosen* by validation accuracy, on networks that train
without the validation images; *best on test* gives Adam the benefit of the doubt.
Behind a rule stands the beginning of its file's SHA-256.

The paper's figures are recalled, not verified; its Adam was tuned on a grid that we do
not know."""


def _table(rows: list[Row]) -> str:
    validated = {group.lr: group for group in groups(rows, "validation")}
    chosen = best_rate(validated.values())
    tested = groups(rows, "test")
    best = best_rate(tested)
    is_paper_setting = (rows[0]["data"], rows[0]["steps"]) == ("full", 1000)
    lines = []
    for group in tested:
        marks = [
            mark
            for mark, lr in (("chosen", chosen), ("best on test", best))
            if group.lr is not None and group.lr == lr
        ]
        kind = group.optimizer if group.rule is None else group.rule["kind"]
        is_theirs = not group.variant and (kind != "adam" or "chosen" in marks)
        is_paper = is_paper_setting and is_theirs
        validation = validated.get(group.lr) if group.lr is not None else None
        lines.append(
            (
                " ".join([group.label, *(f"*({mark})*" for mark in marks)]),
                len(group.rows),
                spread(group.values("accuracy"), 2, scale=100),
                PAPER_ACCURACY["fashion-cnn"].get(kind, "") if is_paper else "",
                spread(validation.values("accuracy"), 2, 100) if validation else "",
                spread(group.values("train_loss"), 4),
                group.num_diverged,
                milliseconds(group),
            )
        )
    return github_table(
        lines,
        (
            "optimizer",
            "n",
            "test accuracy %",
            "paper %",
            "validation accuracy %",
            "training loss",
            "diverged",
            "optimizer ms per step",
        ),
    )


report = partial(
    report_contest,
    command="l2o benchmark fashion",
    heading="# The paper's FashionMNIST task",
    notes=_NOTES,
    build_table=_table,
)
"""Writes tables and curves next to a results file; returns the text."""
