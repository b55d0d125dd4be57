"""Compare shipped rules with a tuned Adam on networks that they never saw.

Five tasks: a perceptron on handwritten digits, an autoencoder of clothes, a character
model of Python's manual, and on CIFAR-10 a residual network with batch norm and a
vision transformer. Adam's learning rate is chosen on validation data at the same
length; rules have nothing to choose. `--steps 10000` shows whether they stay stable.
"""

from functools import partial

from .contest import Contest
from .contest_report import (
    NOTES,
    contest_tables,
    loss_and_test_panels,
    report_contest,
)
from .runs import RESULTS
from .workers import run

__all__ = ["CONFIG", "ROWS", "report", "run"]

ROWS = RESULTS / "held-out.jsonl"

CONFIG = Contest(
    tasks=(
        "digits-mlp",
        "fashion-autoencoder",
        "text-gpt",
        "cifar-resnet",
        "cifar-vit",
    ),
    group_rows=16,
    opponents=("adam",),
    lrs={"adam": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    seeds=(101, 102, 103),
    selection_seeds=(9001,),
    evaluate_at=(0.2, 0.4, 0.6, 0.8),
    results=ROWS,
)

_NOTES = f"""\
{NOTES}

Losses are in nats; the autoencoder's are mean squares.

No rule was trained on these networks. `digits-mlp`: perceptron 784-128-64-10.
`fashion-autoencoder`: 784-128-32-128-784. `text-gpt`: three blocks, 64 wide, four
heads, 64 characters of context; accuracy is the share of characters foreseen.
`cifar-resnet`: eight layers, 16 to 64 channels, batch norm with running statistics.
`cifar-vit`: three blocks, 48 wide, three heads, patches of 4 x 4."""


report = partial(
    report_contest,
    command="l2o benchmark held-out",
    heading="# Rules on networks that they never saw",
    notes=_NOTES,
    build_table=contest_tables,
    build_panels=loss_and_test_panels,
)
"""Writes tables and curves next to a results file; returns the text."""
