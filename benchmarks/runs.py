"""Many training runs, one JSON line each, resumable."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from meta_train.log import append_json_line, read_json_lines
from meta_train.provenance import provenance
from optimizees import TaskLoader, TaskName
from optimizees.data.splits import HeldOutSplit, TrainSplit
from optimizees.files import FileKind
from optimizees.task_loader import DataChoice, data_identity

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
"""Fields that identify a row, with the values of rows that lack them."""


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
    curve_every: int = 10
    """Steps that one point of the curve in its row averages."""

    @property
    def name(self) -> str:
        """The run in a few words."""
        return f"{self.task}, {self.optimizer.label}, seed {self.seed}"


class Ledger:
    """The rows of a results file, and of other files that may answer its runs.

    Several processes may share one results file: a row is appended as one write, by
    one process at a time.

    Args:
        results: the JSON lines file.
        data: which copy of FashionMNIST; "auto" takes the full one if there is any.
        known: results of other benchmarks; a row that answers a run is copied.

    Raises:
        ValueError: if a line of a results file is damaged; nothing is written then.
    """

    def __init__(
        self, results: Path, *, data: DataChoice, known: Iterable[Path] = ()
    ) -> None:
        self.results = results
        self.data: DataChoice = data
        self._identity_of = cache(partial(data_identity, data=data))
        self._elsewhere = {_key(row): row for path in known for row in read_rows(path)}
        self._archive = {_key(row): row for row in _archived(results)}
        self._rows: dict[str, Row] = {}
        self._keys: dict[TrainingRun, str] = {}
        self._size = -1
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have appended."""
        size = self.results.stat().st_size if self.results.is_file() else 0
        if size != self._size:
            added = {_key(row): row for row in read_json_lines(self.results)}
            self._rows = self._archive | added
            self._size = size

    def key(self, run: TrainingRun) -> str:
        """Return the fields that identify a run."""
        if run not in self._keys:
            self._keys[run] = _key(self.identity(run))
        return self._keys[run]

    def identity(self, run: TrainingRun) -> Row:
        """Return the fields of a run's row that are known before it is made."""
        return {
            "task": run.task,
            **run.optimizer.identity(),
            "seed": run.seed,
            "steps": run.steps,
            "evaluate_at": list(run.evaluate_at),
            "batch_size": run.batch_size,
            "train_split": run.train_split,
            "held_out_split": run.held_out_split,
            "data": self._identity_of(run.task),
        }

    def row(self, run: TrainingRun) -> Row | None:
        """Return the row of a run; None if it is not in the results."""
        return self._rows.get(self.key(run))

    def elsewhere(self, run: TrainingRun) -> Row | None:
        """Return the row that another benchmark made for a run; None without one."""
        return self._elsewhere.get(self.key(run))

    def append(self, row: Row) -> None:
        """Add a row to the file.

        Raises:
            OSError: if the file cannot be written.
        """
        append_json_line(self.results, row)


def train_run(
    run: TrainingRun,
    ledger: Ledger,
    loader: TaskLoader,
    *,
    config: Mapping[str, Any],
    name: str,
    shows_progress: bool = True,
) -> tuple[Row, str]:
    """Train a network as a run says.

    Args:
        run: what is trained, how and from which seed.
        ledger: whose row it becomes.
        loader: loads the task.
        config: settings that are no part of the run's identity, as JSON values.
        name: of the run, next to a progress bar.
        shows_progress: whether there is a bar if stderr is a terminal.

    Returns:
        Its row, and one line that says how it went.

    Raises:
        FileNotFoundError: if data is not there.
        ModuleNotFoundError: if a package is not installed.
    """
    task = loader.load(
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
        curve_every=run.curve_every,
        evaluate_at=run.evaluate_at,
        label=name if shows_progress else None,
    )
    origin = provenance()
    if run.optimizer.package is not None:
        package = run.optimizer.package
        origin["versions"] |= {package: version(package)}
    row = {
        **ledger.identity(run),
        **_outcome(curve),
        "data_source": task.source,
        "config": dict(config),
        "provenance": origin,
    }
    return row, _summary(curve, run)


def read_rows(results: Path) -> list[Row]:
    """Return the rows of training runs in a file, one per run; the last one counts.

    Rows in the file's archive come first: `gzip rows.jsonl` leaves `rows.jsonl.gz`,
    which counts as a part of `rows.jsonl`. New rows are appended to the latter.

    Raises:
        ValueError: if a line is damaged.
    """
    rows = [*_archived(results), *read_json_lines(results)]
    return list({_key(row): row for row in rows}.values())


def _archived(results: Path) -> list[Row]:
    """Return the rows that were packed; none without an archive."""
    path = results.with_name(f"{results.name}.gz")
    if not path.is_file():
        return []
    kind = FileKind("read_rows", "packed JSON lines", "Restore the file.")
    lines = kind.read_lines(path)
    return [kind.parse_json(path, line) for line in lines if line.strip()]


def config_values(config: Any) -> dict[str, Any]:
    """Return the configuration for a row: all but the paths of results."""
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


def _key(row: Row) -> str:
    return json.dumps([row.get(name, default) for name, default in _KEY.items()])


def _outcome(curve: TrainingCurve) -> Row:
    """Return the results of a run for its row, in significant digits."""
    return {
        "diverged": curve.diverged,
        "scores": [
            {name: _rounded(value) for name, value in asdict(score).items()}
            for score in curve.scores
        ],
        "optimizer_ms": round(curve.optimizer_ms, 3),
        "loss_ms": round(curve.loss_ms, 3),
        "curve_every": curve.curve_every,
        "curve": [None if loss is None else round(loss, 4) for loss in curve.curve],
    }


def _rounded(value: float | None) -> float | None:
    """Return a number with six significant digits; whole numbers stay as they are."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


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
