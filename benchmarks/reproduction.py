"""`l2o report reproduction`: the paper's learned optimizers, trained again."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .contest_report import PAPER_ACCURACY
from .meta_runs import MetaRun, read_meta_runs
from .pictures import Panel, save_curves
from .report import (
    github_table,
    origin_of,
    require_rows,
    write_report,
)
from .runs import RESULTS, Row, read_rows
from .summary import Group, comparable, groups, is_chosen, spread, task_of

COMMAND = "l2o benchmark transfer"
TITLES = {
    "ff": "FF",
    "lstm": "LSTM",
    "nfn": "NFN",
    "ng_gnn": "NG-GNN",
    "ng_t": "NG-T",
}
"""The paper's rules by kind of network, in the order of its table."""
RECIPES = {"paper": "the paper's recipe", "ours": "our recipe"}
"""First part of a configuration's name, and its title."""

RUNS = "reproduction-runs"
"""Folder next to the results with logs of the runs that made the rules."""

ROWS = RESULTS / "reproduction.jsonl"

_NOTES = """\
Test accuracy in percent after the last step: mean ± sample standard deviation over all
runs of all meta-seeds, and in brackets how many of both. A rule is chosen among those
of its run by validation images; *chosen on test* takes the one that is best on the test
images instead, as the released code did. The table of runs is of the networks that
chose, which are not among those of the other tables. Adam is *tuned* by validation
images. Behind a figure *k diverged* says how many runs ended above the loss of their
first batch, or in numbers that are not finite.

The paper's figures are recalled, not verified; they are of one meta-seed, its Adam was
tuned on a grid that we do not know, and its CIFAR-10 were the official pixels."""


def report(results: Path) -> str:
    """Write how rules of both recipes do on both tasks, and their curves.

    Args:
        results: rows of `l2o benchmark transfer` for rules that `l2o meta-train` made
            of `meta_train/configs/paper` and `/ours`; `.md` and `.png` are written with
            its name. Logs and configurations of their runs may lie in
            `reproduction-runs` next to it.
    """
    rows = read_rows(require_rows(results, COMMAND))
    tasks = comparable(rows)
    parts = ["# The paper's learned optimizers, made again", _main_table(tasks)]
    for title, cell in (
        ("Meta-seeds", _each_seed),
        ("Chosen on validation → chosen on test", _as_chosen),
        ("Read-outs mended → as released", _compared_with("released")),
        ("A tenth of the budget → the whole", _compared_with("whole")),
    ):
        if lines := _by_rule(tasks, cell):
            parts += [f"## {title}", github_table(lines[1:], lines[0])]
    runs = results.with_name(RUNS)
    if runs.is_dir():
        parts += ["## Which rule of a run is kept", _kept(read_meta_runs(runs))]
    panels = [panel for part in tasks for panel in _panels(part)]
    save_curves(results.with_suffix(".png"), panels, columns=len(RECIPES))
    return write_report(
        results, [*parts, origin_of(rows), _NOTES, f"Made by `{COMMAND}`."]
    )


def learned_by(
    rows: Iterable[Row], recipe: str, chosen_on: str = "validation"
) -> list[Group]:
    """Return the rules that a configuration made, one per meta-seed, in their order.

    Args:
        rows: of one setting.
        recipe: name of the configuration.
        chosen_on: images that chose them. A meta-seed for which "test" chose what
            "validation" chose has no rows of its own; these stand in.
    """
    found: dict[str | None, dict[int, Group]] = {"validation": {}, "test": {}}
    for group in groups(rows, "test"):
        if group.rule is not None and group.rule.get("recipe") == recipe:
            where = found.setdefault(group.rule["chosen_on"], {})
            where[group.rule["meta_seed"]] = group
    chosen = found["validation"]
    if chosen_on == "test":
        chosen = {**chosen, **found["test"]} if found["test"] else {}
    return [chosen[seed] for seed in sorted(chosen)]


def _main_table(tasks: Sequence[list[Row]]) -> str:
    """Return a line for each optimizer, for each task the paper's and our figures."""
    headers = ["optimizer"]
    for rows in tasks:
        task = task_of(rows[0])
        headers += [f"{task}: paper"]
        headers += [f"{task}: {title}" for title in RECIPES.values()]
    lines = [*_adam_lines(tasks)]
    for kind, title in TITLES.items():
        cells = []
        for rows in tasks:
            cells.append(_paper(rows, kind))
            cells += [
                _accuracy(learned_by(rows, _name(recipe, kind))) for recipe in RECIPES
            ]
        lines.append([title, *cells])
    return github_table(lines, headers)


def _adam_lines(tasks: Sequence[list[Row]]) -> list[list[str]]:
    """Return a line for the tuned Adam, and one for each rate tested without tuning.

    A rate that was tested only because tuning chose it has no line of its own.
    """
    tuned: dict[int, str] = {}
    untuned: dict[float, dict[int, str]] = {}
    wanted: set[float] = set()
    for place, rows in enumerate(tasks):
        validated = groups(rows, "validation")
        for group in groups(rows, "test"):
            if group.optimizer != "adam" or group.lr is None:
                continue
            untuned.setdefault(group.lr, {})[place] = _accuracy([group])
            if is_chosen(group, validated):
                tuned[place] = f"{_accuracy([group])} at {group.lr:g}"
            else:
                wanted.add(group.lr)
    found = {f"Adam, lr {lr:g}": untuned[lr] for lr in sorted(wanted)}
    lines = []
    for label, cells in {**found, "Adam, *tuned*": tuned}.items():
        line = [label]
        for place, rows in enumerate(tasks):
            paper = _paper(rows, "adam") if cells is tuned else ""
            line += [paper, cells.get(place, ""), ""]
        lines.append(line)
    return lines


def _by_rule(
    tasks: Sequence[list[Row]], cell: Callable[[list[Row], str], str]
) -> list[list[str]]:
    """Return headers, and a line for each rule that has a cell that is not empty.

    Args:
        tasks: the rows of each.
        cell: called with a task's rows and the name of a configuration.
    """
    lines = []
    for recipe, title in RECIPES.items():
        for kind, rule in TITLES.items():
            cells = [cell(rows, _name(recipe, kind)) for rows in tasks]
            if any(cells):
                lines.append([rule, title, *cells])
    headers = ["rule", "recipe", *(task_of(rows[0]) for rows in tasks)]
    return [headers, *lines] if lines else []


def _each_seed(rows: list[Row], name: str) -> str:
    """Return the result of each meta-seed, if there are several."""
    found = learned_by(rows, name)
    cells = [
        f"{group.rule['meta_seed']}: {_accuracy([group], brief=True)}"
        for group in found
        if group.rule is not None
    ]
    return ", ".join(cells) if len(cells) > 1 else ""


def _as_chosen(rows: list[Row], name: str) -> str:
    """Return accuracies as chosen on validation, and as chosen on test."""
    return _compared(learned_by(rows, name), learned_by(rows, name, "test"))


def _compared_with(variant: str) -> Callable[[list[Row], str], str]:
    """Return a function that compares a configuration with a variant of it."""

    def cell(rows: list[Row], name: str) -> str:
        found = learned_by(rows, f"{name}-{variant}")
        made = {group.rule["meta_seed"] for group in found if group.rule is not None}
        before = [
            group
            for group in learned_by(rows, name)
            if group.rule is not None and group.rule["meta_seed"] in made
        ]
        return _compared(before, found)

    return cell


def _kept(runs: Iterable[MetaRun]) -> str:
    """Say which of its rules each run keeps, and which the test images would."""
    headers = ("run", "accuracy (%) over the run", "kept, at step", "on test (%)")
    headers += ("best on test, at step", "on test (%)")
    lines = []
    for run in runs:
        validated = [100 * item["validation"]["accuracy"] for item in run.validations]
        line = [run.name, f"{min(validated):.1f} to {max(validated):.1f}"]
        tested = max(run.validations, key=lambda item: item["test"]["accuracy"])
        for item in (run.best, tested):
            line += [item["outer_step"], f"{100 * item['test']['accuracy']:.1f}"]
        lines.append(line)
    return github_table(lines, headers)


def _compared(before: list[Group], after: list[Group]) -> str:
    """Return two accuracies, the second only where there is one."""
    if not before or not after:
        return ""
    return f"{_accuracy(before, brief=True)} → {_accuracy(after, brief=True)}"


def _accuracy(found: Sequence[Group], *, brief: bool = False) -> str:
    """Return mean and spread over all runs, and how many there are."""
    if not found:
        return ""
    values = [value for group in found for value in group.values("accuracy")]
    diverged = sum(group.num_diverged for group in found)
    text = spread(values, 2, 100) + f", {diverged} diverged" * bool(diverged)
    if brief:
        return text
    counts = [] if found[0].rule is None else [_count(len(found), "meta-seed")]
    counts.append(_count(sum(len(group.rows) for group in found), "run"))
    return f"{text} ({', '.join(counts)})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _paper(rows: list[Row], kind: str) -> str:
    """Return the paper's figure on a task, if it has one."""
    return PAPER_ACCURACY.get(task_of(rows[0]), {}).get(kind, "")


def _name(recipe: str, kind: str) -> str:
    """Return the name of a configuration."""
    return f"{recipe}-{kind.replace('_', '-')}"


def _panels(rows: list[Row]) -> list[Panel]:
    """Draw the training losses of each recipe's rules next to the tuned Adam's."""
    validated = groups(rows, "validation")
    adam = [
        group
        for group in groups(rows, "test")
        if group.optimizer == "adam" and is_chosen(group, validated)
    ]
    panels = []
    for recipe, title in RECIPES.items():
        curves = {group.label: [row["curve"] for row in group.rows] for group in adam}
        for kind, name in TITLES.items():
            if found := learned_by(rows, _name(recipe, kind)):
                curves[name] = [row["curve"] for group in found for row in group.rows]
        panels.append(
            Panel(
                title=f"{task_of(rows[0])}, {title}",
                curves=curves,
                every=rows[0]["curve_every"],
                measure="training loss (nats)",
            )
        )
    return panels
