"""Tables and curves of a contest: what was tested, and how rates were chosen."""

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path

from .pictures import Panel, save_curves
from .report import github_table, origin_of, require_rows, write_report
from .runs import Row, read_rows
from .summary import (
    Group,
    best_rate,
    comparable,
    groups,
    is_chosen,
    merit,
    spread,
    task_of,
)

_FEW = 4
"""Most panels that a picture shows two per row; four stand in a row of more."""

_WINDOW = 50
"""Steps over which a training loss is averaged before it counts as reached."""

PAPER_ACCURACY = {
    "fashion-cnn": {
        "adam": "80.97 ± 0.66",
        "ff": "85.08 ± 0.14",
        "lstm": "85.69 ± 0.23",
        "nfn": "83.78 ± 0.58",
        "ng_gnn": "85.91 ± 0.37",
        "ng_t": "86.52 ± 0.19",
    },
    "cifar-cnn": {
        "adam": "54.76 ± 2.82",
        "ff": "57.55 ± 1.06",
        "lstm": "59.10 ± 0.66",
        "nfn": "57.95 ± 0.64",
        "ng_gnn": "64.37 ± 0.34",
        "ng_t": "60.79 ± 0.51",
    },
}
"""Test accuracy in percent after 1,000 steps, Table 2 of the paper, by task and kind of
network: recalled, not verified against its text."""

NOTES = """\
Mean ± sample standard deviation over n seeds. An opponent's learning rate is the one
that did best on validation data (the second table), where networks train without that
data; rules and teacher have nothing to choose. Training loss: mean of the last 50
steps. Steps to Adam's loss: after how many steps the training loss, averaged over 50
steps, first is what the tuned Adam ends with; `k of n` where only k seeds get there.
Diverged: runs that ended above the loss of their first batch, or whose loss or weights
stopped being finite; such a run counts in the accuracy if its weights are finite.
Behind a rule stands the beginning of its file's SHA-256. Times are not reported: other
programs ran at the same time."""


def report_contest(
    results: Path,
    *,
    command: str,
    heading: str,
    notes: str,
    build_table: Callable[[list[Row]], str],
    build_panels: Callable[[list[Row]], list[Panel]] | None = None,
) -> str:
    """Write a table and a row of panels for each setting in the results.

    Args:
        results: the JSON lines file; `.md` and `.png` are written with its name.
        command: what made the rows.
        heading: the first line.
        notes: the paragraphs at the end.
        build_table: returns the tables of comparable rows.
        build_panels: returns the panels of comparable rows; by default one with the
            training losses of rules, teacher and tuned opponents.

    Returns:
        The text that was written.

    Raises:
        FileNotFoundError: if there are no rows.
    """
    build_panels = loss_panels if build_panels is None else build_panels
    rows = read_rows(require_rows(results, command))
    parts: list[str] = [heading]
    panels: list[Panel] = []
    for part in comparable(rows):
        parts += [headline(part), build_table(part), origin_of(part)]
        panels += build_panels(part)
    columns = min(len(panels), 2 if len(panels) <= _FEW else 4)
    save_curves(results.with_suffix(".png"), panels, columns)
    return write_report(results, [*parts, notes, f"Made by `{command}`."])


def headline(rows: list[Row]) -> str:
    """Say what was trained on what."""
    row = next((row for row in rows if row["held_out_split"] == "test"), rows[0])
    task = "".join({f"{row['task']}: " for row in rows if "task" in row})
    return (
        f"{task}{row['data_source']}; {row['steps']:,} steps, "
        f"batches of {row['batch_size']}"
    )


def milliseconds(group: Group) -> str:
    """Return the mean time of a step of the optimizer."""
    times = [row["optimizer_ms"] for row in group.rows]
    return f"{sum(times) / len(times):.1f}"


def loss_panel(drawn: list[Group], measure: str = "nats") -> Panel:
    """Return the training losses of some optimizers.

    Args:
        drawn: the optimizers.
        measure: unit of the loss.
    """
    return Panel(
        title=picture_title(drawn),
        curves=curves_of(drawn, lambda row: row["curve"]),
        every=drawn[0].rows[0]["curve_every"] if drawn else 1,
        measure=f"training loss ({measure})",
    )


def picture_title(drawn: list[Group]) -> str:
    """Say what was trained and how many runs a curve averages."""
    if not drawn:
        return "no runs"
    row = drawn[0].rows[0]
    counts = sorted({len(group.rows) for group in drawn})
    runs = " to ".join(map(str, counts[:1] + counts[1:][-1:]))
    return (
        f"{task_of(row)}, {row['steps']:,} steps, batches of {row['batch_size']}\n"
        f"mean and range of n = {runs}"
    )


def curves_of(
    drawn: list[Group], curve_of: Callable[[Row], list[float | None]]
) -> dict[str, list[list[float | None]]]:
    """Return the curves of some optimizers by a short label.

    The checksum of a rule's file is part of it only where two rules share a name.

    Args:
        drawn: the optimizers.
        curve_of: returns the curve of a row.
    """
    found: dict[str, list[list[float | None]]] = {}
    for group in drawn:
        short = re.sub(r" \([0-9a-f]{8}\)", "", group.label)
        label = group.label if short in found else short
        diverged = f", {group.num_diverged} diverged" * bool(group.num_diverged)
        found[label + diverged] = [curve_of(row) for row in group.rows]
    return found


def steps_to(row: Row, target: float) -> int | None:
    """Return after how many steps a run's training loss first is at most `target`.

    Args:
        row: a run.
        target: loss in nats, to be reached by the mean of 50 steps.

    Returns:
        A multiple of the steps that a point of the curve averages; None if never.
    """
    width = _WINDOW // row["curve_every"]
    for end in range(width, len(row["curve"]) + 1):
        points = row["curve"][end - width : end]
        if None not in points and statistics.fmean(points) <= target:
            return end * row["curve_every"]
    return None


def contest_tables(rows: list[Row]) -> str:
    """Return what was tested, rules by seed, then how learning rates were chosen."""
    tested = groups(rows, "test")
    validated = groups(rows, "validation")
    parts = [_test_table(rows, tested, validated)] if tested else []
    parts += filter(None, [_paired_list(tested, validated)])
    return "\n\n".join([*parts, _grid_table(validated)] if validated else parts)


def _test_table(rows: list[Row], tested: list[Group], validated: list[Group]) -> str:
    """Return one line for each optimizer, the best first."""
    target = _adam_loss(tested, validated)
    is_paper = (rows[0]["data"], rows[0]["steps"]) == ("full", 1000)
    paper = PAPER_ACCURACY.get(task_of(rows[0]), {}) if is_paper else {}
    has_classes = any(group.values("accuracy") for group in tested)
    lines = []
    for group in sorted(tested, key=lambda group: merit(group.rows), reverse=True):
        kind = group.optimizer if group.rule is None else group.rule["kind"]
        is_tuned = is_chosen(group, validated)
        accuracy = spread(group.values("accuracy"), 2, scale=100)
        lines.append(
            {
                "optimizer": group.label + " *(tuned)*" * is_tuned,
                "n": len(group.rows),
                "test accuracy %": accuracy if has_classes else "",
                "paper %": paper.get(kind, "") if is_tuned or group.rule else "",
                "test loss": spread(group.values("loss"), 4),
                "training loss": spread(group.values("train_loss"), 4),
                "steps to Adam's loss": (
                    "" if target is None else _reached(group, target)
                ),
                "diverged": group.num_diverged,
            }
        )
    headers = [name for name in lines[0] if any(line[name] != "" for line in lines)]
    return github_table([[line[name] for name in headers] for line in lines], headers)


def _paired_list(tested: list[Group], validated: list[Group]) -> str:
    """Return rules minus the best tuned opponent, seed by seed; empty without both."""
    tuned = [group for group in tested if is_chosen(group, validated)]
    if not tuned:
        return ""
    best = max(tuned, key=lambda group: merit(group.rows))
    theirs = {row["seed"]: row["scores"][-1] for row in best.rows}
    lines = []
    for group in sorted(tested, key=lambda group: merit(group.rows), reverse=True):
        own = {row["seed"]: row["scores"][-1] for row in group.rows}
        seeds = own.keys() & theirs.keys()
        if group.rule is None or len(seeds) < 2:
            continue
        gaps = {
            name: [
                own[seed][name] - theirs[seed][name]
                for seed in sorted(seeds)
                if None not in (own[seed][name], theirs[seed][name])
            ]
            for name in ("accuracy", "loss")
        }
        points = spread(gaps["accuracy"], 2, scale=100)
        accuracy = f"accuracy {points} points, " if gaps["accuracy"] else ""
        loss = spread(gaps["loss"], 4)
        lines.append(f"* {group.label}: {accuracy}test loss {loss} (n = {len(seeds)})")
    if not lines:
        return ""
    heading = f"Differences from {best.label}, the best tuned opponent, seed by seed:"
    return "\n".join([heading, "", *lines])


def _grid_table(validated: list[Group]) -> str:
    """Return the validation scores of each learning rate, the best in bold."""
    has_classes = any(group.values("accuracy") for group in validated)
    lines = []
    for optimizer in dict.fromkeys(group.optimizer for group in validated):
        mine = [group for group in validated if group.optimizer == optimizer]
        best = best_rate(mine, optimizer)
        cells = []
        for group in sorted(mine, key=lambda group: group.lr or 0.0):
            value = merit(group.rows)
            shown = f"{100 * value:.2f}" if has_classes else f"{-value:.4f}"
            shown = shown if math.isfinite(value) else "diverged"
            cell = f"{group.lr:g}: {shown}"
            cells.append(f"**{cell}**" if group.lr == best else cell)
        counts = sorted({len(group.rows) for group in mine})
        seeds = "-".join(map(str, counts))
        lines.append((mine[0].label.rpartition(",")[0], seeds, ", ".join(cells)))
    measure = "validation accuracy %" if has_classes else "validation loss"
    headers = ("opponent", "seeds", f"{measure} by learning rate")
    return github_table(lines, headers)


def _reached(group: Group, target: float) -> str:
    """Return the steps to a training loss, and how many runs got there if not all."""
    found = [steps_to(row, target) for row in group.rows]
    steps = [float(count) for count in found if count is not None]
    if not steps:
        return "never"
    missing = len(steps) < len(found)
    return spread(steps, 0) + f" ({len(steps)} of {len(found)})" * missing


def _adam_loss(tested: list[Group], validated: list[Group]) -> float | None:
    """Return the training loss that the tuned Adam ends with, if it was tested."""
    for group in tested:
        losses = group.values("train_loss")
        if group.optimizer == "adam" and is_chosen(group, validated) and losses:
            return statistics.fmean(losses)
    return None


def compared(rows: list[Row]) -> list[Group]:
    """Return what the curves show: all but opponents at rates that were not chosen."""
    validated = groups(rows, "validation")
    tuned = {group.optimizer for group in validated}
    return [
        group
        for group in groups(rows, "test")
        if group.optimizer not in tuned or is_chosen(group, validated)
    ]


def loss_panels(rows: list[Row]) -> list[Panel]:
    """Draw training losses; those of the steps, so averaged weights have no curve."""
    drawn = compared(rows)
    return [
        loss_panel([g for g in drawn if "average" not in g.rows[0].get("settings", {})])
    ]


def loss_and_test_panels(rows: list[Row]) -> list[Panel]:
    """Draw training losses, and the evaluations next to them."""
    drawn = compared(rows)
    has_classes = any(group.values("accuracy") for group in drawn)
    name, scale = ("accuracy", 100.0) if has_classes else ("loss", 1.0)
    measure = "test accuracy (%)" if has_classes else "test loss (mean square)"
    return [
        loss_panel(drawn, "nats" if has_classes else "mean square"),
        Panel(
            title=picture_title(drawn),
            curves=curves_of(drawn, lambda row: _scores(row, name, scale)),
            every=rows[0]["scores"][0]["step"],
            measure=measure,
            is_loss=False,
        ),
    ]


def _scores(row: Row, name: str, scale: float) -> list[float | None]:
    """Return one number of each evaluation; None where there was none."""
    found = (score[name] for score in row["scores"])
    return [None if value is None else scale * value for value in found]
