"""Twelve tasks, rules as they are, and opponents of well-kept packages.

Each opponent runs untuned, at the learning rate that its users begin with, and tuned:
at the one of six or more rates that has the lowest validation loss. Half of them know
the length of the run and decay to zero at its end; the other half could be stopped at
any step. Nothing is tuned for a rule. `--tasks`, `--opponents`, `--untuned` and
`--rules` choose a part; later calls add the rest. `--workers` shares the runs among
processes.
"""

from functools import partial

from .contest import Contest
from .opponents import OPPONENTS
from .runs import RESULTS
from .scoreboard_report import report_scoreboard
from .workers import run

__all__ = ["CONFIG", "ROWS", "report", "run"]

ROWS = RESULTS / "scoreboard.jsonl"

_FAMILIES = ("adamw", "sgd", "original-muon", "soap", "normuon", "ademamix", "prodigy")

_OPPONENTS = (
    *("muon-constant", "muon", "schedule-free"),
    *(name + ending for name in _FAMILIES for ending in ("", "-linear")),
)

CONFIG = Contest(
    tasks=(
        "fashion-cnn",
        "cifar-cnn",
        "cifar-resnet",
        "cifar-vit",
        "cifar-group-norm",
        "text-gpt",
        "text-lstm",
        "digits-mlp",
        "fashion-autoencoder",
        "photo-siren",
        "digits-graph",
        "diabetes-mlp",
    ),
    rules=("base", "ng-gnn-neurons", "ng-gnn", "ff"),
    averaged_rules=("ng-gnn", "base"),
    horizon_rules=("base",),
    control_rules=("ff",),
    opponents=_OPPONENTS,
    lrs={name: OPPONENTS[name].lrs for name in _OPPONENTS},
    untuned=_OPPONENTS,
    untuned_lrs=(1e-4, 1e-2),
    tune_by="loss",
    extensions=2,
    seeds=None,
    selection_seeds=(9001,),
    steps=None,
    evaluate_at=None,
    points=20,
    results=ROWS,
)

report = partial(report_scoreboard, contest=CONFIG)
"""Writes two tables and a picture beside a results file; returns the text."""
