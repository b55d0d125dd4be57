"""Many training runs, one JSON line each, resumable."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from l2o.optim.checkpoint import write_whole
from meta_train.log import read_json_lines
from meta_train.provenance import provenance
from optimizees import build_task, load_fashion_mnist, locate

from .contenders import Contender
from .protocol import TrainingCurve, train

DataChoice: TypeAlias = Literal["auto", "full", "embedded"]
Row: TypeAlias = dict[str, Any]
"""One line of a results file."""

RESULTS = Path("benchmarks/results")
"""Where results lie, below the working directory."""

_KEY = (
    "optimizer",
    "lr",
    "rule_sha256",
    "seed",
    "steps",
    "evaluate_at",
    "batch_size",
    "train_split",
    "held_out_split",
    "data",
)


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
    train_split: Literal["train", "train+validation"]
    """What to train on."""
    held_out_split: Literal["validation", "test"]
    """What to evaluate on."""


def run_trials(
    trials: Iterable[Trial],
    results: Path,
    *,
    data: DataChoice,
    config: Mapping[str, Any],
    announce: Callable[[str], object],
) -> None:
    """Train the paper's FashionMNIST network in each trial and append a row for it.

    Trials whose row is there already are left out, so an interrupted benchmark
    continues where it stopped.

    Args:
        trials: the runs, in order.
        results: the JSON lines file.
        data: which copy of FashionMNIST; "auto" takes the full one if there is any.
        config: the benchmark's configuration as JSON values, written into each row.
        announce: called with one line for each run.

    Raises:
        FileNotFoundError: if the full data is asked for and not there.
        OSError: if the file cannot be written.
    """
    if data == "auto":
        data = "full" if locate("fashion-mnist") else "embedded"
    load = cache(lambda split: load_fashion_mnist(split, source=data))
    todo = list(trials)
    done = {_key(row) for row in read_rows(results)}
    _mend(results)
    for index, trial in enumerate(todo, start=1):
        name = f"[{index}/{len(todo)}] {trial.contender.label}, seed {trial.seed}"
        identity = _identity(trial, data)
        if _key(identity) in done:
            announce(f"{name}: already there")
            continue
        images, held_out = load(trial.train_split), load(trial.held_out_split)
        curve = train(
            build_task("fashion-cnn", images, trial.batch_size),
            trial.contender.build,
            seed=trial.seed,
            steps=trial.steps,
            held_out=held_out,
            evaluate_at=trial.evaluate_at,
            label=name,
        )
        row = {
            **identity,
            **_outcome(curve),
            "rule": trial.contender.rule,
            "data_source": f"FashionMNIST ({data}), {len(images):,} images to train on "
            f"and {len(held_out):,} held out",
            "config": config,
            "provenance": provenance(),
        }
        _append_row(results, row)
        announce(f"{name}: {_summary(curve, trial)}")


def read_rows(results: Path) -> list[Row]:
    """Return the rows of trials in a file, one for each; the last one counts."""
    return list({_key(row): row for row in read_json_lines(results)}.values())


def write_rows(results: Path, rows: Iterable[Row]) -> None:
    """Write a results file whole."""
    write_whole(results, "".join(_line(row) for row in rows).encode())


def config_values(config: Any) -> dict[str, Any]:
    """Return what a row says of its benchmark: all but where the results lie."""
    return {name: value for name, value in asdict(config).items() if name != "results"}


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


def _identity(trial: Trial, data: str) -> Row:
    """Return what tells one row from another."""
    rule = trial.contender.rule
    return {
        "optimizer": trial.contender.name,
        "lr": trial.contender.lr,
        "rule_sha256": None if rule is None else rule["sha256"],
        "seed": trial.seed,
        "steps": trial.steps,
        "evaluate_at": list(trial.evaluate_at),
        "batch_size": trial.batch_size,
        "train_split": trial.train_split,
        "held_out_split": trial.held_out_split,
        "data": data,
    }


def _key(row: Row) -> str:
    return json.dumps([row[name] for name in _KEY])


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
    accuracy = "none" if last.accuracy is None else f"{last.accuracy:.2%}"
    train_loss = "none" if last.train_loss is None else f"{last.train_loss:.4f}"
    ending = f", diverged at step {len(curve.losses)}" if curve.diverged else ""
    return (
        f"{trial.held_out_split} accuracy {accuracy}, training loss {train_loss}, "
        f"{curve.optimizer_ms:.1f} + {curve.loss_ms:.1f} ms a step{ending}"
    )
