"""The page of a scoreboard: two tables, verdicts, controls, every task, a picture."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from optimizees.named_tasks import budget_of

from .contest import Contest
from .intervals import Ratio, interquartile_means, paired_ratio, unpaired_ratio
from .report import github_table, origin_of, require_rows, write_report
from .runs import read_rows
from .scoreboard_entries import (
    HORIZONS,
    Entry,
    Horizon,
    Scoreboard,
    read_scoreboard,
)
from .scoreboard_picture import save_scoreboard
from .scoreboard_tasks import loss_words, task_parts
from .summary import Group

_NOTES = """\
Every optimizer starts from the same weights and sees the same batches for the same
seed. Untuned: at the learning rate that its authors or users begin with. Tuned: at
the one of six or more rates that has the lowest loss on validation data, in runs that
do not train on that data; *tuning runs* counts them. Rules and their teacher are as
they are; nothing was tuned for them. Then all train on training and validation data
and are tested once.

*Score* of a run: the lowest mean test loss of the task in either table, divided by
the run's own; 1 is the best, a run without a finite loss has 0. *IQM*: mean of the
middle half of the scores of all runs and tasks, with a 95 % bootstrap interval that
draws runs within each task (rliable), over the tasks that the default rule and all
untuned opponents of the table ran.

*Won*, *level*, *lost*: whether the 95 % interval of the ratio of test losses lies
below, around or above one: Student's, of the logarithms, paired by seed.

*Steps to target*: after how many steps the test loss first is at most what AdamW,
tuned, ends with on validation data; interpolated between evaluations, `k of n` where
only k seeds get there, nothing where a task is evaluated at its end only. Seconds are
these steps times the median time of a step on a machine that ran other programs, too:
they tell factors, not per cents. Running time of compiled or fused variants is not
measured.

Losses are in nats; those of `fashion-autoencoder`, `photo-siren` and `diabetes-mlp`
are mean squares. Schedule-free AdamW warms up over a twentieth of the run, for which
it is told its length, in the table of an unknown horizon, too."""


def report_scoreboard(results: Path, *, contest: Contest) -> str:
    """Write the page and the picture of a scoreboard.

    Args:
        results: the JSON lines file; `.md` and `.png` are written with its name.
        contest: what made the rows; tells tasks and controls.

    Returns:
        The text that was written.

    Raises:
        FileNotFoundError: if there are no rows.
        ModuleNotFoundError: if rliable, scipy or matplotlib is not installed.
    """
    rows = read_rows(require_rows(results, "l2o benchmark scoreboard"))
    board = read_scoreboard(rows, contest)
    save_scoreboard(results.with_suffix(".png"), board)
    parts = ["# Scoreboard", _coverage(board, contest)]
    for horizon in HORIZONS:
        words = "known" if horizon == "known" else "not known"
        parts += [
            f"## The length of the run is {words}",
            *_table(board, horizon),
        ]
    parts += [
        "## Rules against each opponent",
        "Tasks won-level-lost by the rule of a column, as it is.",
        _verdicts(board),
    ]
    parts += ["## Rules against the best opponent of each task", _losses(board)]
    parts += ["## Controls", *_controls(board)]
    for task in board.tasks:
        parts += [f"## {task}", *task_parts(board, task)]
    return write_report(
        results,
        [*parts, _NOTES, origin_of(rows), "Made by `l2o benchmark scoreboard`."],
    )


def _coverage(board: Scoreboard, contest: Contest) -> str:
    """Say how many of the contest's rows there are."""
    kinds = (contest.rules, contest.averaged_rules, contest.horizon_rules)
    num_rules = sum(map(len, kinds)) + contest.with_teacher
    lines = []
    for task in contest.tasks:
        here = [
            entry for entry in board.entries if task in entry.groups and entry.horizons
        ]
        seeds = sorted({len(entry.groups[task].rows) for entry in here})
        asked = budget_of(task).seeds
        counts = {
            setting: sum(entry.setting == setting for entry in here)
            for setting in ("as it is", "untuned", "tuned")
        }
        lines.append(
            (
                task,
                contest.steps_of(task),
                budget_of(task).batch_size,
                f"{'-'.join(map(str, seeds[:1] + seeds[1:][-1:])) or 0} of {asked}",
                f"{counts['as it is']} of {num_rules}",
                f"{counts['untuned']} of {len(contest.untuned)}",
                f"{counts['tuned']} of {len(contest.opponents)}",
            )
        )
    headers = ("task", "steps", "batch", "seeds", "rules", "untuned", "tuned")
    return github_table(lines, headers)


def _table(board: Scoreboard, horizon: Horizon) -> list[str]:
    """Return one line per entry, the best first: mean test loss of each task."""
    entries = board.of(horizon)
    means = interquartile_means(board.scores(horizon))
    best = {
        task: min(loss for entry in entries if (loss := entry.loss(task)) is not None)
        for task in board.tasks
    }

    def order(entry: Entry) -> tuple[bool, float, int]:
        mean = means.get(entry.line)
        return (mean is None, -(mean or (0.0,))[0], -len(entry.groups))

    lines = [
        (
            entry.label,
            entry.setting,
            sum(entry.tuning_runs.values()),
            _interval_words(means.get(entry.line)),
            *(_cell(entry.loss(task), best[task]) for task in board.tasks),
        )
        for entry in sorted(entries, key=order)
    ]
    headers = ("optimizer", "setting", "tuning runs", "IQM", *board.tasks)
    over = ", ".join(board.compared_tasks(horizon)) or "no task"
    return [f"Mean test losses; IQM over {over}.", github_table(lines, headers)]


def _verdicts(board: Scoreboard) -> str:
    """Return how often each rule won, was level and lost, one line per opponent."""
    rules = board.rules()
    lines = [
        (
            other.label,
            other.setting,
            horizon,
            *(_counts(rule, other, board.tasks, horizon) for rule in rules),
        )
        for horizon in HORIZONS
        for other in board.of(horizon)
        if other.is_opponent
    ]
    headers = ("opponent", "setting", "horizon", *(rule.label for rule in rules))
    return github_table(lines, headers)


def _counts(first: Entry, second: Entry, tasks: Sequence[str], horizon: Horizon) -> str:
    """Return how often the first one won, was level and lost, as `2-1-0`."""
    ratios = [ratio_of(first, second, task) for task in tasks]
    verdicts = [ratio.verdict for ratio in ratios if ratio is not None]
    if horizon not in first.horizons or not verdicts:
        return ""
    return "-".join(str(verdicts.count(word)) for word in ("won", "level", "lost"))


def ratio_of(first: Entry, second: Entry, task: str) -> Ratio | None:
    """Compare two entries on a task; None unless they share two seeds."""
    mine, theirs = first.losses(task), second.losses(task)
    if len(mine.keys() & theirs.keys()) < 2:
        return None
    return paired_ratio(mine, theirs)


def _losses(board: Scoreboard) -> str:
    """Return how each rule compares with the best opponents of each task."""
    lines = []
    for rule in board.rules():
        for task in board.tasks:
            if task not in rule.groups:
                continue
            cells = []
            for setting in ("untuned", "tuned"):
                best = _best(board, task, lambda e, s=setting: e.setting == s)
                cells.append(_compared(rule, best, task))
            lines.append((rule.label, task, _shown(rule.loss(task)), *cells))
    headers = ("rule", "task", "test loss", "best untuned opponent", "best tuned one")
    return github_table(lines, headers)


def _best(
    board: Scoreboard, task: str, admits: Callable[[Entry], bool]
) -> Entry | None:
    """Return the entry with the lowest test loss, in either table."""
    found = {
        entry.key: (loss, entry)
        for entry in board.entries
        if admits(entry) and (loss := entry.loss(task)) is not None
    }
    return min(found.values(), key=lambda pair: pair[0])[1] if found else None


def _compared(rule: Entry, other: Entry | None, task: str) -> str:
    """Say how far apart a rule and an opponent are, in words."""
    if other is None:
        return "no runs"
    ratio = ratio_of(rule, other, task)
    if ratio is None:
        return f"{other.label}: {_shown(other.loss(task))}"
    return (
        f"{other.label}: {_shown(other.loss(task))}; rule {ratio.verdict}, "
        f"{_ratio_words(ratio)}"
    )


def _controls(board: Scoreboard) -> list[str]:
    """Return whether known results come out: Adam's rates, a rule against itself."""
    parts = []
    high, low = 1e-2, 1e-4
    lines = [
        (
            task,
            len(rates[high].rows),
            loss_words(rates[high]),
            loss_words(rates[low]),
            *_verdict_cells(paired_ratio(_by_seed(rates[high]), _by_seed(rates[low]))),
        )
        for task, rates in board.rates.items()
        if high in rates and low in rates and len(rates[high].rows) > 1
    ]
    if lines:
        headers = ("task", "n", "lr 0.01", "lr 0.0001", "ratio", "0.01 has")
        parts += ["Adam at two rates, a hundred times apart:"]
        parts += [github_table(lines, headers)]
    lines = []
    for task, rules in board.repeated.items():
        for name, group in rules.items():
            own = [entry for entry in board.entries if entry.name == name]
            losses = list(own[0].losses(task).values()) if own else []
            again = list(_by_seed(group).values())
            if min(len(losses), len(again)) > 1:
                ratio = unpaired_ratio(losses, again)
                lines.append((name, task, len(again), *_verdict_cells(ratio)))
    if lines:
        headers = ("rule", "task", "n", "ratio", "is")
        parts += ["A rule against itself from other seeds (Welch's interval):"]
        parts += [github_table(lines, headers)]
        verdicts = [line[-1] for line in lines]
        parts += [
            f"Level on {verdicts.count('level')} of {len(lines)} tasks; one in twenty "
            "is expected to come out otherwise."
        ]
    return parts or ["No control has run."]


def _by_seed(group: Group) -> dict[int, float]:
    entry = Entry(name="", label="", setting="as it is", horizons=())
    entry.groups[""] = group
    return entry.losses("")


def _verdict_cells(ratio: Ratio) -> tuple[str, str]:
    return (_ratio_words(ratio), ratio.verdict)


def _ratio_words(ratio: Ratio) -> str:
    return f"{ratio.ratio:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"


def _interval_words(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return ""
    mean, low, high = found
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _cell(loss: float | None, best: float) -> str:
    if loss is None:
        return ""
    return f"**{_shown(loss)}**" if loss == best else _shown(loss)


def _shown(loss: float | None) -> str:
    if loss is None:
        return ""
    return f"{loss:.4g}" if math.isfinite(loss) else "diverged"
