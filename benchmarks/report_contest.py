"""Tables and curves of rules against tuned opponents."""

import math
import statistics
from pathlib import Path
from typing import Literal, assert_never

from .baselines import Adam
from .curves import Panel
from .report import PAPER_ACCURACY, github_table, loss_panel, report_trials
from .runs import Row
from .summary import Group, best_rate, groups, is_chosen, merit, spread, task_of

_WINDOW = 50
"""Steps over which a training loss is averaged before it counts as reached."""

_NOTES = """\
Mean ± sample standard deviation over n seeds. An opponent's learning rate is the one
that did best on validation data (the second table), where networks train without that
data; rules and teacher have nothing to choose. Training loss: mean of the last 50
steps. Steps to Adam's loss: after how many steps the training loss, averaged over 50
steps, first is what the tuned Adam ends with; `k of n` where only k seeds get there.
Diverged: runs that ended above the loss of their first batch, or whose loss or weights
stopped being finite; such a run counts in the accuracy if its weights are finite.
Behind a rule stands the beginning of its file's SHA-256. Times are not reported: other
programs ran beside these."""

_TRANSFER_HEADING = "# Rules without tuning, against tuned opponents"
_TRANSFER_NOTES = f"""\
{_NOTES}

Losses are in nats. The training loss of schedule-free AdamW is taken where its
gradients are; its average, which is tested, is better.

The paper's figures are recalled, not verified; its Adam was tuned on a grid that we do
not know, and its CIFAR-10 were the official pixels."""

_HELD_OUT_HEADING = "# Rules on networks that they never saw"
_HELD_OUT_NOTES = f"""\
{_NOTES}

Losses are in nats; the autoencoder's are mean squares.

No rule was trained on these networks. `digits-mlp`: perceptron 784-128-64-10.
`fashion-autoencoder`: 784-128-32-128-784. `text-gpt`: three blocks, 64 wide, four
heads, 64 characters of context; accuracy is the share of characters foreseen.
`cifar-resnet`: eight layers, 16 to 64 channels, batch norm with running statistics.
`cifar-vit`: three blocks, 48 wide, three heads, patches of 4 x 4."""


def report_contest(name: Literal["transfer", "held-out"], results: Path) -> str:
    """Write the tables and curves of a benchmark by `report_trials`.

    Args:
        name: the benchmark.
        results: as there.
    """
    match name:
        case "transfer":
            heading, notes = _TRANSFER_HEADING, _TRANSFER_NOTES
            build_panels = _loss_panels
        case "held-out":
            heading, notes = _HELD_OUT_HEADING, _HELD_OUT_NOTES
            build_panels = _loss_and_test_panels
        case _:
            assert_never(name)
    return report_trials(
        results,
        command=f"l2o benchmark {name}",
        heading=heading,
        build_table=_tables,
        notes=notes,
        build_panels=build_panels,
    )


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


def _tables(rows: list[Row]) -> str:
    """Return what was tested, then how learning rates were chosen."""
    tested = groups(rows, "test")
    validated = groups(rows, "validation")
    parts = [_test_table(rows, tested, validated)] if tested else []
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


def _grid_table(validated: list[Group]) -> str:
    """Return what each learning rate did on validation data, the best in bold."""
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
        if group.optimizer == Adam.name and is_chosen(group, validated) and losses:
            return statistics.fmean(losses)
    return None


def _drawn(rows: list[Row]) -> list[Group]:
    """Return what the curves show: all but what was neither tuned nor learned."""
    validated = groups(rows, "validation")
    return [
        group
        for group in groups(rows, "test")
        if group.lr is None or is_chosen(group, validated)
    ]


def _loss_panels(title: str, rows: list[Row]) -> list[Panel]:
    """Draw training losses."""
    return [loss_panel(title, _drawn(rows))]


def _loss_and_test_panels(title: str, rows: list[Row]) -> list[Panel]:
    """Draw training losses, and beside them what the evaluations found."""
    drawn = _drawn(rows)
    has_classes = any(group.values("accuracy") for group in drawn)
    name, scale = ("accuracy", 100.0) if has_classes else ("loss", 1.0)
    evaluated = {
        group.label: [_scores(row, name, scale) for row in group.rows]
        for group in drawn
    }
    measure = "test accuracy (%)" if has_classes else "test loss (mean square)"
    return [
        loss_panel(title, drawn, "nats" if has_classes else "mean square"),
        Panel(
            title=title,
            curves=evaluated,
            every=rows[0]["scores"][0]["step"],
            measure=measure,
            is_loss=False,
        ),
    ]


def _scores(row: Row, name: str, scale: float) -> list[float | None]:
    """Return one number of each evaluation; None where there was none."""
    found = (score[name] for score in row["scores"])
    return [None if value is None else scale * value for value in found]
