"""Many training runs, one JSON line each, resumable."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from meta_train.log import append_json_line, read_json_lines
from meta_train.provenance import provenance
from optimizees import TaskLoader, TaskName
from optimizees.named_tasks import (
    DataChoice,
    HeldOutSplit,
    TrainSplit,
    data_identity,
)

from .optimizers import OptimizerSpec
from .protocol import TrainingCurve, train

Row: TypeAlias = dict[str, Any]
"""One line of a results file."""

RESULTS = Path("benchmarks/results")
"""Where results lie, below the working directory."""

_KEY: dict[str, Any] = {
    "task": "fashion-cnn",
    "optimizer": None,
    "lr": None,
    "settings": {},
    "rule_sha256": None,
    "seed": None,
    "steps": None,
    "evaluate_at": [],
    "batch_size": None,
    "train_split": None,
    "held_out_split": None,
    "data": None,
}
"""What tells one row from another, with the values of rows that do not say."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training run that a benchmark asks for."""

    task: TaskName
    """What is trained."""
    optimizer: OptimizerSpec
    """What trains it."""
    seed: int
    """Decides initial weights and batches."""
    steps: int
    """Updates to make."""
    evaluate_at: tuple[int, ...] = ()
    """Steps after which to evaluate, besides the last one."""
    batch_size: int
    """Examples per batch."""
    train_split: TrainSplit
    """What to train on."""
    held_out_split: HeldOutSplit
    """What to evaluate on."""


def complete_runs(
    runs: Iterable[TrainingRun],
    results: Path,
    *,
    data: DataChoice,
    config: Mapping[str, Any],
    announce: Callable[[str], object],
    known: Iterable[Path] = (),
) -> list[Row]:
    """Train a network in each run and append a row for it.

    Runs whose row is there already are left out, so an interrupted benchmark continues
    where it stopped.

    Args:
        runs: the runs, in order.
        results: the JSON lines file.
        data: which copy of FashionMNIST; "auto" takes the full one if there is any.
        config: the benchmark's configuration as JSON values, written into each row.
        announce: called with one line for each run.
        known: results of other benchmarks; a row that answers a run is copied.

    Returns:
        The rows of the runs, in their order.

    Raises:
        FileNotFoundError: if data is asked for and not there.
        ValueError: if a line of a results file is damaged; nothing is written then.
        OSError: if the file cannot be written.
    """
    load = cache(TaskLoader(data=data).load)
    todo = list(runs)
    done = {_key(row): row for row in read_rows(results)}
    elsewhere = {_key(row): row for path in known for row in read_rows(path)}
    rows: list[Row] = []
    for index, run in enumerate(todo, start=1):
        name = f"[{index}/{len(todo)}] {_describe(run)}"
        identity = _identity(run, data)
        key = _key(identity)
        if key in done:
            rows.append(done[key])
            announce(f"{name}: already there")
            continue
        if key in elsewhere:
            rows.append(elsewhere[key])
            announce(f"{name}: copied")
        else:
            task = load(
                run.task,
                batch_size=run.batch_size,
                train_split=run.train_split,
                held_out=(run.held_out_split,),
            )
            curve = train(
                task,
                partial(run.optimizer.build, steps=run.steps),
                seed=run.seed,
                steps=run.steps,
                split=run.held_out_split,
                evaluate_at=run.evaluate_at,
                label=name,
            )
            row = {
                **identity,
                **_outcome(curve),
                "data_source": task.source,
                "config": config,
                "provenance": provenance(),
            }
            rows.append(row)
            announce(f"{name}: {_summary(curve, run)}")
        append_json_line(results, rows[-1])
    return rows


def read_rows(results: Path) -> list[Row]:
    """Return the rows of training runs in a file, one per run; the last one counts.

    Raises:
        ValueError: if a line is damaged.
    """
    return list({_key(row): row for row in read_json_lines(results)}.values())


def config_values(config: Any) -> dict[str, Any]:
    """Return what a row says of its benchmark: all but where results lie."""
    places = ("results", "known")
    return {name: value for name, value in asdict(config).items() if name not in places}


def use_threads(threads: int | None) -> None:
    """Set the CPU threads of this process; None leaves them.

    Raises:
        ValueError: unless the number is positive.
    """
    if threads is None:
        return
    if threads < 1:
        raise ValueError(
            f"threads must be at least 1; got {threads}. Leave it out for all cores."
        )
    torch.set_num_threads(threads)


def _describe(run: TrainingRun) -> str:
    """Name a run in one line."""
    return f"{run.task}, {run.optimizer.label}, seed {run.seed}"


def _identity(run: TrainingRun, data: DataChoice) -> Row:
    """Return what tells one row from another, and the whole record of a rule."""
    return {
        "task": run.task,
        **run.optimizer.identity(),
        "seed": run.seed,
        "steps": run.steps,
        "evaluate_at": list(run.evaluate_at),
        "batch_size": run.batch_size,
        "train_split": run.train_split,
        "held_out_split": run.held_out_split,
        "data": data_identity(run.task, data),
    }


def _key(row: Row) -> str:
    return json.dumps([row.get(name, default) for name, default in _KEY.items()])


def _outcome(curve: TrainingCurve) -> Row:
    """Return what a row says of the run, rounded to what is meaningful."""
    return {
        "diverged": curve.diverged,
        "scores": [asdict(score) for score in curve.scores],
        "optimizer_ms": round(curve.optimizer_ms, 3),
        "loss_ms": round(curve.loss_ms, 3),
        "curve_every": curve.curve_every,
        "curve": [None if loss is None else round(loss, 4) for loss in curve.curve],
    }


def _summary(curve: TrainingCurve, run: TrainingRun) -> str:
    """Say in one line how a run went."""
    last = curve.scores[-1]
    loss = "none" if last.loss is None else f"{last.loss:.4f}"
    held_out = f"loss {loss}"
    if last.accuracy is not None:
        held_out = f"accuracy {last.accuracy:.2%}"
    train_loss = "none" if last.train_loss is None else f"{last.train_loss:.4f}"
    ending = f", diverged at step {len(curve.losses)}" if curve.diverged else ""
    return (
        f"{run.held_out_split} {held_out}, training loss {train_loss}, "
        f"{curve.optimizer_ms:.1f} + {curve.loss_ms:.1f} ms per step{ending}"
    )
