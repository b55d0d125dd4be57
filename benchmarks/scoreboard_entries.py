"""The rows of a scoreboard as entries: one optimizer in one setting, on every task."""

import hashlib
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias

from l2o import shipped_rules
from l2o.rule.checkpoint import DEFAULT_RULE
from l2o.rule_metadata import rule_path
from optimizees import TaskName

from .contest import Contest
from .opponents import OPPONENTS
from .runs import Row
from .summary import Group, best_rate, groups, task_of

Setting: TypeAlias = Literal["as it is", "untuned", "tuned"]
"""Rules and their teacher are taken as they are."""
Horizon: TypeAlias = Literal["unknown", "known"]
"""Whether an optimizer is told the length of the run."""
HORIZONS: tuple[Horizon, ...] = ("unknown", "known")
"""Both, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One optimizer in one setting."""

    name: str
    """Name in the rows; of a rule, with the settings that differ from its own."""
    label: str
    """Name in tables."""
    setting: Setting
    """How its learning rate was found."""
    horizons: tuple[Horizon, ...]
    """Tables that it stands in: both, if it can be stopped at any step without having
    been told the horizon; none, if it is a rule whose updates were scaled."""
    groups: dict[str, Group] = field(default_factory=dict)
    """Its test runs by task."""
    tuning_runs: dict[str, int] = field(default_factory=dict)
    """Runs on validation data before those, by task."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from other entries."""
        return (self.name, self.setting)

    @property
    def line(self) -> str:
        """A name for pictures that no other entry has."""
        return f"{self.label} ({self.setting})" if self.is_opponent else self.label

    @property
    def is_opponent(self) -> bool:
        """Whether it is hand-designed and from a package."""
        return self.setting != "as it is"

    def loss(self, task: str) -> float | None:
        """Return the mean test loss of a task; infinite if a run has none."""
        losses = self.losses(task)
        return statistics.fmean(losses.values()) if losses else None

    def losses(self, task: str) -> dict[int, float]:
        """Return the test loss of each seed; infinite where there is no number."""
        rows = self.groups[task].rows if task in self.groups else ()
        return {row["seed"]: final_loss(row) for row in rows}


@dataclass(frozen=True, kw_only=True)
class Scoreboard:
    """All entries of a results file."""

    tasks: tuple[TaskName, ...]
    """Tasks that have test rows, in the contest's order."""
    entries: list[Entry]
    """Opponents, rules and teacher."""
    rates: dict[str, dict[float, Group]]
    """Adam at given rates, by task: a control."""
    repeated: dict[str, dict[str, Group]]
    """Rules from other seeds, by task and name: a control."""
    targets: dict[str, float]
    """Lowest validation loss of AdamW, tuned, by task."""

    def of(self, horizon: Horizon) -> list[Entry]:
        """Return the entries of one table."""
        return [entry for entry in self.entries if horizon in entry.horizons]

    def compared_tasks(self, horizon: Horizon) -> list[TaskName]:
        """Return the tasks that the untuned opponents and the default rule ran."""
        needed = [
            entry
            for entry in self.of(horizon)
            if entry.setting == "untuned" or entry.name == DEFAULT_RULE
        ]
        return [
            task for task in self.tasks if all(task in entry.groups for entry in needed)
        ]

    def scores(self, horizon: Horizon) -> dict[str, list[list[float]]]:
        """Return the scores of a table's entries over its compared tasks.

        Returns:
            By label and setting, one list per task of one score per run, for the
            entries that have runs on all of these tasks.
        """
        tasks = self.compared_tasks(horizon)
        return {
            entry.line: [
                [self.best_loss(task) / loss for loss in entry.losses(task).values()]
                for task in tasks
            ]
            for entry in self.of(horizon)
            if tasks and all(task in entry.groups for task in tasks)
        }

    def best_loss(self, task: str) -> float:
        """Return the lowest mean test loss of a task, in either table."""
        found = (entry.loss(task) for entry in self.entries if entry.horizons)
        return min(loss for loss in found if loss is not None)

    def rules(self) -> list[Entry]:
        """Return rules and teacher, the default rule and its variants first."""
        found = [entry for entry in self.entries if not entry.is_opponent]
        return sorted(
            (entry for entry in found if entry.horizons),
            key=lambda entry: entry.name.partition(",")[0] != DEFAULT_RULE,
        )


def read_scoreboard(rows: Iterable[Row], contest: Contest) -> Scoreboard:
    """Sort the rows of a scoreboard.

    Args:
        rows: of one results file; of equal tasks they share length and data.
        contest: which tasks there are, and which seeds are a control.
    """
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(task_of(row), []).append(row)
    tasks: tuple[TaskName, ...] = tuple(
        task for task in contest.tasks if groups(by_task.get(task, ()), "test")
    )
    entries: dict[tuple[str, str], Entry] = {}
    rates: dict[str, dict[float, Group]] = {}
    repeated: dict[str, dict[str, Group]] = {}
    targets: dict[str, float] = {}
    for task in tasks:
        own = by_task[task]
        control = [row for row in own if row["seed"] in contest.control_seeds]
        repeated[task] = {_rule_name(group): group for group in groups(control, "test")}
        validated = groups(own, "validation")
        for group in groups((row for row in own if row not in control), "test"):
            if group.optimizer == "adam" and group.lr is not None:
                rates.setdefault(task, {})[group.lr] = group
                continue
            for found in _entries_of(group, validated):
                entry = entries.setdefault(found.key, found)
                entry.groups[task] = group
                if found.setting == "tuned":
                    entry.tuning_runs[task] = _num_runs(validated, group.optimizer)
        if (target := _target(validated)) is not None:
            targets[task] = target
    return Scoreboard(
        tasks=tasks,
        entries=list(entries.values()),
        rates=rates,
        repeated=repeated,
        targets=targets,
    )


def final_loss(row: Row) -> float:
    """Return the loss at the end of a run; infinite if it is not finite."""
    loss = row["scores"][-1]["loss"]
    return math.inf if loss is None else loss


def steps_to_loss(row: Row, target: float) -> float | None:
    """Return after how many steps the held-out loss first is at most `target`.

    Args:
        row: a run that was evaluated along the way.
        target: loss to be reached.

    Returns:
        Steps, interpolated between two evaluations; None if the target is not reached.

    Example:
        >>> row = {"scores": [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 1.0}]}
        >>> steps_to_loss(row, 2.0), steps_to_loss(row, 0.5)
        (15.0, None)
    """
    before: Mapping[str, Any] | None = None
    for score in row["scores"]:
        if score["loss"] is None:
            return None
        if score["loss"] <= target:
            if before is None:
                return float(score["step"])
            share = (before["loss"] - target) / (before["loss"] - score["loss"])
            return before["step"] + share * (score["step"] - before["step"])
        before = score
    return None


def seconds_of(row: Row, steps: float) -> float:
    """Return how long some steps of a run take, by its median times."""
    return steps * (row["optimizer_ms"] + row["loss_ms"]) / 1000


_LEAST_RATES = 6
"""Learning rates that count as tuned."""


def _entries_of(group: Group, validated: Sequence[Group]) -> list[Entry]:
    """Return the entries that a group of test runs belongs to, without their runs."""
    if group.lr is None:
        name = _rule_name(group)
        horizons: tuple[Horizon, ...] = HORIZONS
        if "knows_length" in group.variant:
            horizons = ("known",)
        if "scale" in group.variant or "told_share" in group.variant:
            horizons = ()
        return [Entry(name=name, label=name, setting="as it is", horizons=horizons)]
    opponent = OPPONENTS[group.optimizer]
    rates = {other.lr for other in validated if other.optimizer == group.optimizer}
    settings: list[Setting] = []
    if group.lr == opponent.untuned_lr:
        settings.append("untuned")
    is_best = group.lr == best_rate(validated, group.optimizer, by="loss")
    if is_best and len(rates) >= _LEAST_RATES:
        settings.append("tuned")
    return [
        Entry(
            name=group.optimizer,
            label=opponent.title,
            setting=setting,
            horizons=("known",) if opponent.knows_horizon else ("unknown",),
        )
        for setting in settings
    ]


def _rule_name(group: Group) -> str:
    """Return a rule's name and the settings that differ from its own.

    The beginning of the checksum is part of it only where the rule that is shipped by
    that name is another one by now.
    """
    checksum = (group.rule or {}).get("sha256", "")
    if checksum != _shipped_checksum(group.optimizer):
        return group.label
    return group.label.replace(f" ({checksum[:8]})", "")


@cache
def _shipped_checksum(name: str) -> str | None:
    """Return the checksum of a rule's file; None unless it is shipped."""
    if name not in shipped_rules():
        return None
    return hashlib.sha256(rule_path(name).read_bytes()).hexdigest()


def _num_runs(validated: Iterable[Group], optimizer: str) -> int:
    return sum(len(item.rows) for item in validated if item.optimizer == optimizer)


def _target(validated: Sequence[Group]) -> float | None:
    """Return the lowest validation loss of AdamW, with or without a decay."""
    found = [
        statistics.fmean(map(final_loss, group.rows))
        for group in validated
        if group.optimizer in ("adamw", "adamw-linear")
    ]
    return min(found, default=None)
