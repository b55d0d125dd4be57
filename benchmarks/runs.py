"""Many training runs, one JSON line each, resumable."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from l2o.files import write_whole
from meta_train.log import read_json_lines
from meta_train.provenance import provenance
from optimizees import TaskLoader, TaskName
from optimizees.named_tasks import (
    DataChoice,
    HeldOutSplit,
    TrainSplit,
    data_identity,
)

from .optimizers import Contender, build_optimizer, identify, label
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
class Trial:
    """One training run that a benchmark asks for."""

    contender: Contender
    """The optimizer."""
    seed: int
    """Decides initial weights and batches."""
    steps: int
    """Updates to make."""
    evaluate_at: tuple[int, ...] = ()
    """Steps after which to evaluate, besides the last one."""
    batch_size: int
    """Images a batch."""
    train_split: TrainSplit
    """What to train on."""
    held_out_split: HeldOutSplit
    """What to evaluate on."""
    task: TaskName = "fashion-cnn"
    """What is trained."""


def run_trials(
    trials: Iterable[Trial],
    results: Path,
    *,
    data: DataChoice,
    config: Mapping[str, Any],
    announce: Callable[[str], object],
    known: Iterable[Path] = (),
) -> list[Row]:
    """Train a network in each trial and append a row for it.

    Trials whose row is there already are left out, so an interrupted benchmark
    continues where it stopped.

    Args:
        trials: the runs, in order.
        results: the JSON lines file.
        data: which copy of FashionMNIST; "auto" takes the full one if there is any.
        config: the benchmark's configuration as JSON values, written into each row.
        announce: called with one line for each run.
        known: results of other benchmarks; a row that answers a trial is copied.

    Returns:
        The rows of the trials, in their order.

    Raises:
        FileNotFoundError: if data is asked for and not there.
        OSError: if the file cannot be written.
    """
    load = cache(TaskLoader(data=data).load)
    todo = list(trials)
    done = {_key(row): row for row in read_rows(results)}
    elsewhere = {_key(row): row for path in known for row in read_rows(path)}
    _mend(results)
    rows: list[Row] = []
    for index, trial in enumerate(todo, start=1):
        name = f"[{index}/{len(todo)}] {_describe(trial)}"
        identity = _identity(trial, data)
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
                trial.task,
                batch_size=trial.batch_size,
                train_split=trial.train_split,
                held_out=(trial.held_out_split,),
            )
            curve = train(
                task,
                partial(build_optimizer, trial.contender, steps=trial.steps),
                seed=trial.seed,
                steps=trial.steps,
                split=trial.held_out_split,
                evaluate_at=trial.evaluate_at,
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
            announce(f"{name}: {_summary(curve, trial)}")
        _append_row(results, rows[-1])
    return rows


def read_rows(results: Path) -> list[Row]:
    """Return the rows of trials in a file, one for each; the last one counts."""
    return list({_key(row): row for row in read_json_lines(results)}.values())


def write_rows(results: Path, rows: Iterable[Row]) -> None:
    """Write a results file whole."""
    write_whole(results, "".join(_line(row) for row in rows).encode())


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


def _append_row(results: Path, row: Row) -> None:
    with results.open("a") as file:
        file.write(_line(row))


def _mend(results: Path) -> None:
    """Cut off a last line that an interrupt left unfinished; make the folder."""
    results.parent.mkdir(parents=True, exist_ok=True)
    if results.is_file() and not results.read_text().endswith("\n"):
        write_rows(results, read_json_lines(results))


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _describe(trial: Trial) -> str:
    """Name a run in one line."""
    return f"{trial.task}, {label(trial.contender)}, seed {trial.seed}"


def _identity(trial: Trial, data: DataChoice) -> Row:
    """Return what tells one row from another, and the whole record of a rule."""
    return {
        "task": trial.task,
        **identify(trial.contender),
        "seed": trial.seed,
        "steps": trial.steps,
        "evaluate_at": list(trial.evaluate_at),
        "batch_size": trial.batch_size,
        "train_split": trial.train_split,
        "held_out_split": trial.held_out_split,
        "data": data_identity(trial.task, data),
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


def _summary(curve: TrainingCurve, trial: Trial) -> str:
    """Say in one line how a run went."""
    last = curve.scores[-1]
    loss = "none" if last.loss is None else f"{last.loss:.4f}"
    held_out = f"loss {loss}"
    if last.accuracy is not None:
        held_out = f"accuracy {last.accuracy:.2%}"
    train_loss = "none" if last.train_loss is None else f"{last.train_loss:.4f}"
    ending = f", diverged at step {len(curve.losses)}" if curve.diverged else ""
    return (
        f"{trial.held_out_split} {held_out}, training loss {train_loss}, "
        f"{curve.optimizer_ms:.1f} + {curve.loss_ms:.1f} ms a step{ending}"
    )
