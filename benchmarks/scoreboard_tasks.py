"""The table of one task of a scoreboard."""

import math
import statistics

from optimizees.named_tasks import TaskName, budget_of

from .contest_report import headline
from .report import github_table
from .scoreboard_entries import Scoreboard, seconds_of, steps_to_loss
from .summary import Group, spread


def task_parts(board: Scoreboard, task: TaskName) -> list[str]:
    """Return the table of one task, the lowest loss first."""
    here = [entry for entry in board.entries if task in entry.groups]
    target = board.targets.get(task)
    has_steps = budget_of(task).evaluations > 1 and target is not None
    lines = []
    for entry in sorted(here, key=lambda entry: entry.loss(task) or 0.0):
        group = entry.groups[task]
        steps, seconds = ("", "")
        if has_steps and target is not None:
            steps, seconds = _reached(group, target)
        lines.append(
            {
                "optimizer": entry.label,
                "setting": entry.setting,
                "lr": "" if group.lr is None else f"{group.lr:g}",
                "horizon": " and ".join(entry.horizons) or "in no other table",
                "n": len(group.rows),
                "test loss": loss_words(group),
                "accuracy %": spread(group.values("accuracy"), 2, scale=100),
                "steps to target": steps,
                "seconds": seconds,
                "diverged": group.num_diverged,
                "tuning runs": entry.tuning_runs.get(task, 0),
            }
        )
    empty = ("", "none")
    headers = [name for name in lines[0] if any(ln[name] not in empty for ln in lines)]
    cells = [[line[name] for name in headers] for line in lines]
    head = headline(list(here[0].groups[task].rows))
    words = "" if target is None else f"; target {target:.4g}"
    return [f"{head}{words}", github_table(cells, headers)]


def _reached(group: Group, target: float) -> tuple[str, str]:
    """Return steps and seconds to a loss, and how many runs got there if not all."""
    pairs = [
        (steps, seconds_of(row, steps))
        for row in group.rows
        if (steps := steps_to_loss(row, target)) is not None
    ]
    if not pairs:
        return ("never", "")
    steps, seconds = (list(each) for each in zip(*pairs, strict=True))
    missing = f" ({len(pairs)} of {len(group.rows)})"
    ending = missing if len(pairs) < len(group.rows) else ""
    return (spread(steps, 0) + ending, f"{statistics.fmean(seconds):.2g}")


def loss_words(group: Group) -> str:
    """Return mean ± standard deviation with four digits, of the runs with a loss."""
    losses = group.values("loss")
    if not losses:
        return "none"
    mean = statistics.fmean(losses)
    digits = max(0, 3 - math.floor(math.log10(mean))) if mean > 0 else 4
    return spread(losses, digits)
