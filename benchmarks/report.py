"""Results as tables and curves."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from l2o.files import write_whole
from meta_train.log import read_json_lines

from .curves import Panel, save_curves
from .runs import Row, read_rows
from .summary import Group, best_rate, groups, settings, spread

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

_FASHION_NOTES = """\
Mean ± sample standard deviation over n seeds. Training loss: mean of the last 50 steps,
in nats. Diverged: runs that ended above the loss of their first batch, or whose loss or
weights stopped being finite; such a run counts in the accuracy if its weights are
finite. Adam's learning rate is *chosen* by validation accuracy, on networks that train
without the validation images; *best on test* gives Adam the benefit of the doubt.
Behind a rule stands the beginning of its file's SHA-256.

The paper's figures are recalled, not verified; its Adam was tuned on a grid that we do
not know."""

_LONG_NOTES = """\
Mean ± sample standard deviation over n seeds. Training loss: mean of the 50 steps
before, in nats. Diverged: runs that ended above the loss of their first batch, or whose
loss or weights stopped being finite; such a run counts in the accuracy if its weights
are finite. Behind a rule stands the beginning of its file's SHA-256."""


def report_fashion(results: Path) -> str:
    """Write the tables and curves of `l2o benchmark fashion` by `report_trials`."""
    return report_trials(
        results,
        command="l2o benchmark fashion",
        heading="# The paper's FashionMNIST task",
        build_table=_fashion_table,
        notes=_FASHION_NOTES,
    )


def report_long(results: Path) -> str:
    """Write the tables and curves of `l2o benchmark long` by `report_trials`."""
    return report_trials(
        results,
        command="l2o benchmark long",
        heading="# Five times the paper's length",
        build_table=_long_table,
        notes=_LONG_NOTES,
    )


def github_table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return a table as GitHub reads it, with every cell as it is."""
    from tabulate import tabulate

    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def report_trials(
    results: Path,
    *,
    command: str,
    heading: str,
    build_table: Callable[[list[Row]], str],
    notes: str,
    build_panels: Callable[[str, list[Row]], list[Panel]] | None = None,
) -> str:
    """Write a table and a row of panels for each setting in the results.

    Args:
        results: the JSON lines file; `.md` and `.png` are written with its name.
        command: what made the rows.
        heading: the first line.
        build_table: returns the tables of comparable rows.
        notes: the last words.
        build_panels: returns the curves of comparable rows under a title, as many
            panels for each setting; by default the training losses of what is not
            Adam, and of Adam as chosen and at its best.

    Returns:
        The text that was written.

    Raises:
        FileNotFoundError: if there are no rows.
    """
    build_panels = _panels if build_panels is None else build_panels
    rows = read_rows(require_rows(results, command))
    parts, panels = [heading], []
    for part in settings(rows):
        parts += [_headline(part), build_table(part), origin_of(part)]
        panels.append(build_panels(_headline(part), part))
    picture = results.with_suffix(".png")
    save_curves(picture, [*chain.from_iterable(panels)], columns=len(panels[0]))
    return write_report(results, [*parts, notes, f"Made by `{command}`."])


def report_rows(
    results: Path,
    command: str,
    build: Callable[[list[Row]], Sequence[str]],
    draw: Callable[[list[Row], Path], object] | None = None,
) -> str:
    """Write a page about all rows of a file, and perhaps a picture.

    Args:
        results: the JSON lines file; `.md` and `.png` are written with its name.
        command: what made the rows.
        build: returns the paragraphs of the page, tables among them.
        draw: called with the rows and the path of the picture; None for no picture.

    Returns:
        The text that was written.

    Raises:
        FileNotFoundError: if there are no rows.
    """
    rows = read_json_lines(require_rows(results, command))
    parts = build(rows)
    if draw is not None:
        draw(rows, results.with_suffix(".png"))
    return write_report(results, [*parts, f"Made by `{command}`."])


def require_rows(results: Path, command: str) -> Path:
    """Return the file, which must have rows."""
    if not read_json_lines(results):
        raise FileNotFoundError(
            f"report needs rows in {results}; got none. Run `{command}` first, or name "
            "another file with --results."
        )
    return results


def write_report(results: Path, parts: Sequence[str]) -> str:
    """Write paragraphs beside the results, whole or not at all; return the text.

    Args:
        results: the JSON lines file; `.md` is written with its name.
        parts: paragraphs, tables among them; empty ones are left out.
    """
    parts = [part for part in parts if part]
    text = "\n\n".join(parts) + "\n"
    write_whole(results.with_suffix(".md"), text.encode())
    return text


def _headline(rows: list[Row]) -> str:
    """Say what was trained on what."""
    row = next((row for row in rows if row["held_out_split"] == "test"), rows[0])
    task = "".join({f"{row['task']}: " for row in rows if "task" in row})
    return (
        f"{task}{row['data_source']}; {row['steps']:,} steps, "
        f"batches of {row['batch_size']}"
    )


def origin_of(rows: list[Row]) -> str:
    """Say by which commit, on which machine the rows were made."""
    found = [row["provenance"] for row in rows]
    commits = sorted({item["commit"] for item in found})
    torch = sorted({item["versions"]["torch"] for item in found})
    machines = sorted({_machine(item) for item in found})
    return (
        f"{len(rows)} rows; commit {', '.join(commits)}; torch {', '.join(torch)}; "
        f"{'; '.join(machines)}."
    )


def _machine(origin: Row) -> str:
    machine = origin["machine"]
    return f"{machine['processor']}, {machine['threads']} CPU thread(s)"


def _fashion_table(rows: list[Row]) -> str:
    validated = {group.lr: group for group in groups(rows, "validation")}
    chosen = best_rate(validated.values())
    tested = groups(rows, "test")
    best = best_rate(tested)
    is_paper_setting = (rows[0]["data"], rows[0]["steps"]) == ("full", 1000)
    lines = []
    for group in tested:
        marks = [
            mark
            for mark, lr in (("chosen", chosen), ("best on test", best))
            if group.lr is not None and group.lr == lr
        ]
        kind = group.optimizer if group.rule is None else group.rule["kind"]
        is_theirs = not group.variant and (kind != "adam" or "chosen" in marks)
        is_paper = is_paper_setting and is_theirs
        validation = validated.get(group.lr) if group.lr is not None else None
        lines.append(
            (
                " ".join([group.label, *(f"*({mark})*" for mark in marks)]),
                len(group.rows),
                spread(group.values("accuracy"), 2, scale=100),
                PAPER_ACCURACY["fashion-cnn"].get(kind, "") if is_paper else "",
                spread(validation.values("accuracy"), 2, 100) if validation else "",
                spread(group.values("train_loss"), 4),
                group.num_diverged,
                _milliseconds(group),
            )
        )
    return github_table(
        lines,
        (
            "optimizer",
            "n",
            "test accuracy %",
            "paper %",
            "validation accuracy %",
            "training loss",
            "diverged",
            "optimizer ms a step",
        ),
    )


def _long_table(rows: list[Row]) -> str:
    first, last = (score["step"] for score in rows[0]["scores"])
    lines = [
        (
            group.label,
            len(group.rows),
            spread(group.values("accuracy", 0), 2, scale=100),
            spread(group.values("accuracy"), 2, scale=100),
            spread(group.values("train_loss", 0), 4),
            spread(group.values("train_loss"), 4),
            group.num_diverged,
            _milliseconds(group),
        )
        for group in groups(rows, "test")
    ]
    return github_table(
        lines,
        (
            "optimizer",
            "n",
            f"test accuracy % at {first:,}",
            f"at {last:,}",
            f"training loss at {first:,}",
            f"at {last:,}",
            "diverged",
            "optimizer ms a step",
        ),
    )


def _milliseconds(group: Group) -> str:
    """Return the mean time of a step of the optimizer."""
    times = [row["optimizer_ms"] for row in group.rows]
    return f"{sum(times) / len(times):.1f}"


def loss_panel(title: str, drawn: list[Group], measure: str = "nats") -> Panel:
    """Return the training losses of some optimizers.

    Args:
        title: stands above.
        drawn: the optimizers.
        measure: unit of the loss.
    """
    return Panel(
        title=title,
        curves={group.label: [row["curve"] for row in group.rows] for group in drawn},
        every=drawn[0].rows[0]["curve_every"] if drawn else 1,
        measure=f"training loss ({measure})",
    )


def _panels(title: str, rows: list[Row]) -> list[Panel]:
    """Draw the rules, Adam as chosen and at its best."""
    tested = groups(rows, "test")
    rates = {best_rate(groups(rows, "validation")), best_rate(tested)}
    drawn = [group for group in tested if group.lr is None or group.lr in rates]
    return [loss_panel(title, drawn)]
