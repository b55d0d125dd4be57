"""Tables and curves of `l2o benchmark transfer`."""

import statistics
from pathlib import Path

from .baselines import Adam
from .report import PAPER_ACCURACY, github_table, report_trials
from .summary import Group, best_rate, groups, spread, task_of
from .trials import Row

_WINDOW = 50
"""Steps over which a training loss is averaged before it counts as reached."""

_NOTES = """\
Mean ± sample standard deviation over n seeds. An opponent's learning rate is the one
with the best validation accuracy on its grid (second table), of networks that train
without the validation images; rules and teacher have nothing to choose. Training loss:
mean of the last 50 steps, in nats; that of schedule-free AdamW is taken where its
gradients are, not at its average. Steps to Adam's loss: after how many steps the
training loss, averaged over 50 steps, first is what the tuned Adam ends with; `k of n`
where only k seeds get there. Diverged: runs whose loss or weights stopped being finite;
such a run counts in the accuracy if its weights are finite. Behind a rule stands the
beginning of its file's SHA-256.

The paper's figures are recalled, not verified; its Adam was tuned on a grid that we do
not know. Times are not reported: other programs ran beside these."""


def report_transfer(results: Path) -> str:
    """Return the tables of `l2o benchmark transfer`; write them and curves beside it.

    Args:
        results: the JSON lines file; `.md` and `.png` are written with its name.

    Returns:
        The text that was written.

    Raises:
        FileNotFoundError: if there are no rows.
    """
    return report_trials(
        results,
        command="l2o benchmark transfer",
        heading="# Rules without tuning, against tuned opponents",
        build_table=_tables,
        notes=_NOTES,
        draw=_drawn,
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
    target = _adam_loss(tested, validated)
    is_paper = (rows[0]["data"], rows[0]["steps"]) == ("full", 1000)
    paper = PAPER_ACCURACY[task_of(rows[0])] if is_paper else {}
    ranked = sorted(tested, key=_accuracy, reverse=True)
    lines = []
    for group in ranked:
        kind = group.optimizer if group.rule is None else group.rule["kind"]
        is_tuned = _is_chosen(group, validated)
        lines.append(
            (
                group.label + " *(tuned)*" * is_tuned,
                len(group.rows),
                spread(group.values("accuracy"), 2, scale=100),
                paper.get(kind, "") if is_tuned or group.rule is not None else "",
                spread(group.values("loss"), 4),
                spread(group.values("train_loss"), 4),
                "" if target is None else _reached(group, target),
                group.num_diverged,
            )
        )
    return github_table(
        lines,
        (
            "optimizer",
            "n",
            "test accuracy %",
            "paper %",
            "test loss",
            "training loss",
            "steps to Adam's loss",
            "diverged",
        ),
    )


def _grid_table(validated: list[Group]) -> str:
    """Return validation accuracy at each learning rate, the best in bold."""
    lines = []
    for optimizer in dict.fromkeys(group.optimizer for group in validated):
        mine = [group for group in validated if group.optimizer == optimizer]
        best = best_rate(mine, optimizer)
        cells = []
        for group in sorted(mine, key=lambda group: group.lr or 0.0):
            cell = f"{group.lr:g}: {100 * _accuracy(group):.2f}"
            cells.append(f"**{cell}**" if group.lr == best else cell)
        counts = sorted({len(group.rows) for group in mine})
        seeds = "-".join(map(str, counts))
        lines.append((mine[0].label.rpartition(",")[0], seeds, ", ".join(cells)))
    headers = ("opponent", "seeds", "validation accuracy % by learning rate")
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
        if group.optimizer == Adam.name and _is_chosen(group, validated) and losses:
            return statistics.fmean(losses)
    return None


def _is_chosen(group: Group, validated: list[Group]) -> bool:
    """Whether the group has the learning rate that did best on validation images."""
    rate = best_rate(validated, group.optimizer)
    return group.lr is not None and group.lr == rate


def _accuracy(group: Group) -> float:
    """Return the mean over all runs; one without an accuracy counts as zero."""
    return sum(group.values("accuracy")) / len(group.rows)


def _drawn(rows: list[Row]) -> list[Group]:
    """Return what the curves show: all but what was neither tuned nor learned."""
    validated = groups(rows, "validation")
    return [
        group
        for group in groups(rows, "test")
        if group.lr is None or _is_chosen(group, validated)
    ]
