"""`l2o report ablations`: what each part of a recipe contributes."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from l2o.rule.config import rule_config_from_values, rule_config_values

from .meta_runs import MetaRun, read_meta_runs
from .pictures import Panel, save_curves
from .report import github_table, origin_of, require_rows, write_report
from .runs import RESULTS, Row, read_rows
from .summary import Group, comparable, groups, spread, task_of

COMMAND = "l2o benchmark transfer"
BASE = "ablations-base"
"""Name of the configuration that the others change."""
RUNS = "ablations-runs"
"""Folder next to the results with logs and configurations of the runs."""

_NOT_COMPARED = ("name", "seed", "device", "compile", "checkpoint_minutes")

ROWS = RESULTS / "ablations.jsonl"

_NOTES = """\
Each run is `ablations-base` but for what the second column names. Inner steps are those
that all its problems took. *Validation* is of the rule that each run kept, on the
images that chose it. Test accuracy in percent and training loss (mean of the last 50
steps, in nats) after the last step: mean ± sample standard deviation over all runs of
all meta-seeds; *diverged* counts those that ended above the loss of their first batch,
or in numbers that are not finite."""


def report(results: Path) -> str:
    """Write the results of runs of meta-training that differ in one part.

    Args:
        results: rows of `l2o benchmark transfer` for the rules that the runs made;
            `.md` and `.png` are written with its name. Logs and configurations of the
            runs lie in `ablations-runs` next to it; `ablations-base` is among them.

    Returns:
        The text that was written.

    Raises:
        FileNotFoundError: if there are no rows or no runs.
        ValueError: if no run is called `ablations-base`.
    """
    rows = read_rows(require_rows(results, COMMAND))
    runs = _by_name(read_meta_runs(results.with_name(RUNS)))
    if BASE not in runs:
        raise ValueError(
            f"report ablations needs a run whose configuration is called {BASE!r}; got "
            f"{sorted(runs)}. Copy its log and configuration to "
            f"{results.with_name(RUNS)}, too."
        )
    parts, panels = ["# What a recipe owes to its parts"], []
    for part in comparable(rows):
        found = _rules(part, runs)
        parts += [f"## {task_of(part[0])}", _table(found, runs)]
        panels.append(_panel(part, found))
    save_curves(results.with_suffix(".png"), panels, columns=len(panels))
    return write_report(
        results, [*parts, origin_of(rows), _NOTES, f"Made by `{COMMAND}`."]
    )


def changes(config: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Return the settings in which a configuration differs from another.

    Args:
        config: as resolved.
        base: what it is compared with.

    Returns:
        `path.of.setting: value` of each; only the kind of what is of another kind, and
        no value of a list of records.
    """
    found = []
    for key in [*config, *(key for key in base if key not in config)]:
        new, old = config.get(key), base.get(key)
        if new == old or key in _NOT_COMPARED:
            continue
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            if new.get("kind") != old.get("kind"):
                found.append(f"{key}: {new['kind']}")
            else:
                found += [f"{key}.{item}" for item in changes(new, old)]
        elif isinstance(new, list) and any(isinstance(item, dict) for item in new):
            found.append(key)
        else:
            found.append(f"{key}: {new}")
    return found


def _resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration, with defaults for settings that its file lacks.

    Such settings were added later; their defaults are what earlier runs did.
    """
    from meta_train.config import MetaTrainConfig  # extra [train]

    known = {
        item.name: item.default
        for item in fields(MetaTrainConfig)
        if item.default is not MISSING
    }
    rule = rule_config_values(rule_config_from_values(config["rule"]))
    return {**known, **config, "rule": rule}


def _by_name(runs: Iterable[MetaRun]) -> dict[str, list[MetaRun]]:
    """Return the runs of each configuration, one per meta-seed."""
    found: dict[str, list[MetaRun]] = {}
    for run in runs:
        found.setdefault(run.config["name"], []).append(run)
    return found


def _rules(rows: list[Row], runs: Mapping[str, Any]) -> dict[str, list[Group]]:
    """Return the rules that each configuration made, the base first."""
    found: dict[str, list[Group]] = {}
    for group in groups(rows, "test"):
        if group.rule is not None and group.rule.get("recipe") in runs:
            found.setdefault(group.rule["recipe"], []).append(group)
    return dict(sorted(found.items(), key=lambda item: item[0] != BASE))


def _table(found: Mapping[str, list[Group]], runs: Mapping[str, list[MetaRun]]) -> str:
    lines, base = [], _resolved(runs[BASE][0].config)
    for name, rules in found.items():
        made, config = runs[name], runs[name][0].config
        kept = [run.best["validation"]["accuracy"] for run in made]
        accuracies = [value for rule in rules for value in rule.values("accuracy")]
        losses = [value for rule in rules for value in rule.values("train_loss")]
        lines.append(
            (
                name,
                "; ".join(changes(_resolved(config), base)),
                ", ".join(f"{run.steps[-1]['inner_steps']:,}" for run in made),
                len(rules),
                ", ".join(f"{100 * value:.1f}" for value in kept),
                spread(accuracies, 2, 100),
                spread(losses, 4),
                sum(rule.num_diverged for rule in rules),
                sum(len(rule.rows) for rule in rules),
            )
        )
    headers = ("run", "what differs", "inner steps", "meta-seeds", "validation %")
    headers += ("test accuracy %", "training loss", "diverged", "n")
    return github_table(lines, headers)


def _panel(rows: list[Row], found: Mapping[str, list[Group]]) -> Panel:
    return Panel(
        title=task_of(rows[0]),
        curves={
            name: [row["curve"] for rule in rules for row in rule.rows]
            for name, rules in found.items()
        },
        every=rows[0]["curve_every"],
        measure="training loss (nats)",
    )
