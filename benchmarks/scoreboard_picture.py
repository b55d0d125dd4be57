"""The picture of a scoreboard: two performance profiles, and one panel per task."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from l2o.rule.checkpoint import DEFAULT_RULE

from .intervals import performance_profiles
from .opponents import OPPONENTS
from .pictures import label_ends, save_figure, styles
from .scoreboard_entries import HORIZONS, Entry, Horizon, Scoreboard

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_COLUMNS = 4
"""Panels per row."""
_LARGEST = 3.0
"""Largest test loss that is drawn, in units of the task's best."""
_NUM_POINTS = 121
"""Points of a profile."""
_MOST_CURVES = 9
"""Curves of a profile: rules and the best opponents."""

_COLORS = {"as it is": "#0072B2", "untuned": "#CC6677", "tuned": "#882255"}
_MARKERS = {"unknown": "o", "known": "D"}


def save_scoreboard(path: Path, board: Scoreboard) -> None:
    """Draw a scoreboard.

    The profiles show which share of its runs comes within a factor of the task's best
    loss. A task's panel has one line per optimizer and a mark per setting.

    Args:
        path: the PNG file to write.
        board: with at least one task.

    Raises:
        OSError: if the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: needs no display

    num_rows = 1 + -(-len(board.tasks) // _COLUMNS)
    figure = Figure(figsize=(4.6 * _COLUMNS, 4.0 * num_rows), layout="constrained")
    grid = figure.add_gridspec(num_rows, _COLUMNS)
    half = _COLUMNS // 2
    for index, horizon in enumerate(HORIZONS):
        place = grid[0, index * half : (index + 1) * half]
        _draw_profile(figure.add_subplot(place), board, horizon)
    for index, task in enumerate(board.tasks):
        row, column = divmod(index, _COLUMNS)
        _draw_task(figure.add_subplot(grid[row + 1, column]), board, task)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, frameon=False)
    save_figure(path, figure)


def profile_curves(board: Scoreboard, horizon: Horizon) -> dict[str, list[list[float]]]:
    """Return the scores that a profile shows, by label.

    Rules, teacher and the opponents with the highest mean score, each in its better
    setting; all of them have runs on all compared tasks.

    Args:
        board: the scoreboard.
        horizon: which table.
    """
    all_scores = board.scores(horizon)
    found: dict[str, tuple[float, bool, str, list[list[float]]]] = {}
    for entry in board.of(horizon):
        if entry.line not in all_scores:
            continue
        scores = all_scores[entry.line]
        mean = sum(sum(each) / len(each) for each in scores) / len(scores)
        known = found.get(entry.name)
        if known is None or mean > known[0]:
            found[entry.name] = (mean, entry.is_opponent, entry.line, scores)
    order = sorted(found.values(), key=lambda item: (item[1], -item[0]))
    return {label: scores for _, _, label, scores in order[:_MOST_CURVES]}


def _draw_profile(axis: "Axes", board: Scoreboard, horizon: Horizon) -> None:
    factors = [_LARGEST ** (index / (_NUM_POINTS - 1)) for index in range(_NUM_POINTS)]
    thresholds = [1 / factor - 1e-9 for factor in factors]
    scores = profile_curves(board, horizon)
    words = "not known" if horizon == "unknown" else "known"
    axis.set_title(f"length of the run {words}: share of runs within a factor")
    axis.set_xlabel("test loss, in units of the best optimizer's mean")
    axis.set_xlim(1, _LARGEST)
    axis.set_ylim(0, 1.02)
    axis.grid(alpha=0.3)
    if not scores:
        axis.text(0.5, 0.5, "no optimizer has run on every task", ha="center")
        return
    look, ends = styles(scores), {}
    for label, shares in performance_profiles(scores, thresholds).items():
        color, style = look[label]
        width = 2.2 if label.partition(",")[0] == DEFAULT_RULE else 1.3
        axis.plot(factors, shares, color=color, linestyle=style, linewidth=width)
        ends[label] = (factors[-1], shares[-1])
    label_ends(axis, ends)


def _draw_task(axis: "Axes", board: Scoreboard, task: str) -> None:
    best = board.best_loss(task)
    here = [entry for entry in board.entries if task in entry.groups and entry.horizons]
    lowest: dict[str, float] = {}
    for entry in here:
        ratio = _ratio(entry, task, best)
        name = _line_of(entry)
        lowest[name] = min(ratio, lowest.get(name, math.inf))
    order = sorted(lowest, key=lambda name: lowest[name], reverse=True)
    for entry in here:
        horizon = "known" if entry.horizons == ("known",) else "unknown"
        color = _COLORS[entry.setting]
        axis.plot(
            min(_ratio(entry, task, best), _LARGEST),
            order.index(_line_of(entry)),
            marker=_MARKERS[horizon],
            color=color,
            markerfacecolor="none" if horizon == "known" else color,
            markersize=6,
            linestyle="none",
        )
    axis.set_yticks(range(len(order)), order, fontsize=8)
    for label in axis.get_yticklabels():
        is_default = label.get_text().partition(",")[0] == DEFAULT_RULE
        label.set_fontweight("bold" if is_default else "normal")
    axis.set_xlim(0.97, 1.03 * _LARGEST)
    axis.set_title(f"{task}: test loss / {best:.3g}", fontsize=10)
    axis.grid(alpha=0.3)


def _legend() -> list["Line2D"]:
    """Return the meaning of the marks in the tasks' panels."""
    from matplotlib.lines import Line2D

    kinds = [
        ("rules and teacher, as they are", "as it is", "unknown"),
        ("untuned", "untuned", "unknown"),
        ("untuned, told the horizon", "untuned", "known"),
        ("tuned", "tuned", "unknown"),
        ("tuned, told the horizon", "tuned", "known"),
    ]
    return [
        Line2D(
            [],
            [],
            label=words,
            color=_COLORS[setting],
            marker=_MARKERS[horizon],
            markerfacecolor="none" if horizon == "known" else _COLORS[setting],
            linestyle="none",
        )
        for words, setting, horizon in kinds
    ]


def _line_of(entry: Entry) -> str:
    """Return the line of a panel: an opponent's two schedules share one."""
    if not entry.is_opponent:
        return entry.label.replace("averaged weights", "averaged")
    if entry.name == "muon":
        return OPPONENTS["muon-constant"].title
    return OPPONENTS[entry.name.removesuffix("-linear")].title


def _ratio(entry: Entry, task: str, best: float) -> float:
    loss = entry.loss(task)
    assert loss is not None  # the entry has runs of the task
    return loss / best
