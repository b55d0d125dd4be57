"""Rows of many seeds as one record per optimizer."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .opponents import find_opponent
from .optimizers import in_words
from .runs import Row

Measure: TypeAlias = Literal["accuracy", "loss"]
"""What decides which runs are better."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one optimizer that differ in nothing but the seed."""

    optimizer: str
    """As in the rows."""
    lr: float | None
    """As in the rows."""
    rule: Row | None
    """As in the rows."""
    rows: tuple[Row, ...]
    """One for each seed."""

    @property
    def label(self) -> str:
        """A short name; of a rule also the beginning of its file's checksum."""
        if self.lr is not None:
            return f"{find_opponent(self.optimizer).title}, lr {self.lr:g}"
        if self.rule is None:
            return self.optimizer
        name = f"{self.optimizer} ({self.rule['sha256'][:8]})"
        return name + in_words(self.variant)

    @property
    def variant(self) -> dict[str, Any]:
        """Settings of the optimizer other than its own, by name."""
        return self.rows[0].get("settings") or {}

    @property
    def num_diverged(self) -> int:
        """Number of runs that ended worse than they began, or in no finite numbers."""
        return sum(_has_diverged(row) for row in self.rows)

    def values(self, name: str, index: int = -1) -> list[float]:
        """Return one number of each run's score, where there is one.

        Args:
            name: `accuracy`, `loss` or `train_loss`.
            index: which of the run's scores; the last one by default.
        """
        found = (row["scores"][index][name] for row in self.rows)
        return [value for value in found if value is not None]


def _has_diverged(row: Row) -> bool:
    """Whether the training loss ended above that of the first batch."""
    start, end = row["curve"][0], row["scores"][-1]["train_loss"]
    return row["diverged"] or start is None or end is None or end > start


def comparable(rows: Iterable[Row]) -> list[list[Row]]:
    """Split rows into lists that share task, data, length and batch size."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        names = ("data", "steps", "evaluate_at", "batch_size")
        setting = json.dumps([task_of(row), *(row[name] for name in names)])
        parts.setdefault(setting, []).append(row)
    return list(parts.values())


def groups(rows: Iterable[Row], held_out_split: str) -> list[Group]:
    """Return the optimizers that were measured on a split, in the order of the rows."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        if row["held_out_split"] == held_out_split:
            names = ("optimizer", "lr", "rule_sha256", "settings")
            identity = json.dumps([row.get(name) or None for name in names])
            parts.setdefault(identity, []).append(row)
    return [
        Group(
            optimizer=part[0]["optimizer"],
            lr=part[0]["lr"],
            rule=part[0]["rule"],
            rows=tuple(part),
        )
        for part in parts.values()
    ]


def best_rate(
    found: Iterable[Group], optimizer: str = "adam", by: Measure = "accuracy"
) -> float | None:
    """Return the learning rate whose runs are best; None without runs.

    Args:
        found: the groups to choose from.
        optimizer: whose learning rate.
        by: which number decides.
    """
    merits = {
        group.lr: merit(group.rows, by)
        for group in found
        if group.lr is not None and group.optimizer == optimizer
    }
    return max(merits, key=lambda lr: merits[lr]) if merits else None


def is_chosen(group: Group, validated: Iterable[Group]) -> bool:
    """Whether a group has the learning rate that did best on validation data.

    Args:
        group: runs of one optimizer.
        validated: the groups that the choice was made from.
    """
    rate = best_rate(validated, group.optimizer)
    return group.lr is not None and group.lr == rate


def merit(rows: Sequence[Row], by: Measure = "accuracy") -> float:
    """Return how good the runs of one optimizer are; more is better.

    It is the mean accuracy, or minus the mean loss where there are no classes. A run
    without a number counts as the worst, so divergence is no advantage.

    Args:
        rows: runs that differ in their seeds.
        by: "loss" takes the loss even where there are classes.
    """
    scores = [row["scores"][-1] for row in rows]
    has_accuracy = any(score["accuracy"] is not None for score in scores)
    if by == "accuracy" and has_accuracy:
        return sum(score["accuracy"] or 0.0 for score in scores) / len(scores)
    losses = [math.inf if score["loss"] is None else score["loss"] for score in scores]
    return -sum(losses) / len(losses)


def task_of(row: Row) -> str:
    """Return the task of a row; early rows do not name it."""
    return row.get("task", "fashion-cnn")


def spread(values: list[float], digits: int, scale: float = 1.0) -> str:
    """Return mean ± sample standard deviation; without the latter for one value."""
    if not values:
        return "none"
    mean = scale * statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {scale * statistics.stdev(values):.{digits}f}"
