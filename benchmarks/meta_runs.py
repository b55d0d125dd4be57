"""Runs of meta-training as a table and curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meta_train.log import read_json_lines

from .pictures import save_figure, smooth
from .report import github_table, write_report
from .runs import RESULTS

ROWS = RESULTS / "meta_train"

_NOTES = """\
Validation is on FashionMNIST's validation images, as each run's configuration says; of
two runs with different settings it compares only roughly. Best: at the outer step of
the lowest validation loss, or of the highest accuracy where the configuration selects
so; the run keeps its rule. Diverged, skipped: inner problems given up, outer steps
whose meta-gradient was not finite; both until the last validation."""


@dataclass(frozen=True, kw_only=True)
class MetaRun:
    """What one run of meta-training logged."""

    name: str
    """Of its files or its folder."""
    config: dict[str, Any]
    """As resolved when it ran."""
    steps: list[dict[str, Any]]
    """One record per outer step."""
    validations: list[dict[str, Any]]
    """One record per validation."""

    @property
    def best(self) -> dict[str, Any]:
        """The first of the best validations, by the measure that the run selects by."""
        if self.config["validation"].get("select") == "accuracy":
            return max(self.validations, key=_accuracy)
        return min(self.validations, key=lambda record: record["validation"]["loss"])


def read_meta_runs(place: Path) -> list[MetaRun]:
    """Return the runs in a folder.

    Args:
        place: the folder of one run, with `log.jsonl` and `config.yaml`; or one with
            pairs of `.jsonl` and `.yaml`; or one with folders of runs.

    Raises:
        FileNotFoundError: if there is none with both a log and a configuration.
    """
    pairs = [
        (path, path.with_suffix(".yaml")) for path in sorted(place.glob("*.jsonl"))
    ]
    folders = [place, *sorted(item for item in place.glob("*") if item.is_dir())]
    pairs += [(folder / "log.jsonl", folder / "config.yaml") for folder in folders]
    found = [
        _read(log, config)
        for log, config in pairs
        if log.is_file() and config.is_file() and read_json_lines(log)
    ]
    if not found:
        raise FileNotFoundError(
            f"report needs runs of meta-training in {place}; got none. Name the folder "
            "of a run, or one that holds several, with --results."
        )
    return found


def report(results: Path) -> str:
    """Return a table of runs; write it and their curves next to the folder.

    Args:
        results: as for `read_meta_runs`; `.md` and `.png` are written with its name.

    Returns:
        The text that was written.

    Raises:
        FileNotFoundError: if there are no runs.
    """
    runs = read_meta_runs(results)
    save_meta_curves(results.with_suffix(".png"), runs)
    parts = ["# Runs of meta-training", _table(runs), _NOTES]
    command = f"l2o report meta-train --results {results.as_posix()}"
    return write_report(results, [*parts, f"Made by `{command}`."])


def save_meta_curves(path: Path, runs: list[MetaRun]) -> None:
    """Draw the meta-loss and the validation accuracy of runs over their outer steps.

    Args:
        path: the PNG file to write.
        runs: one curve each; the meta-loss is smoothed by a running mean over five.
    """
    from matplotlib.figure import Figure  # without pyplot: needs no display

    figure = Figure(figsize=(9, 8), layout="constrained")
    losses, accuracies = figure.subplots(2, 1, sharex=True)
    for index, run in enumerate(runs):
        color, style = f"C{index % 10}", ("-", "--", ":")[index // 10 % 3]
        steps = [record["outer_step"] for record in run.steps]
        smoothed = smooth([record["loss"] for record in run.steps])
        losses.plot(
            *(steps[: len(smoothed)], smoothed),
            color=color,
            linestyle=style,
            label=run.name,
        )
        accuracies.plot(
            [record["outer_step"] for record in run.validations],
            [100 * _accuracy(record) for record in run.validations],
            color=color,
            linestyle=style,
            marker="os^"[index // 10 % 3],
            markersize=4,
        )
    losses.set_ylabel("mean loss of the inner steps (nats)")
    accuracies.set_ylabel("validation accuracy (%)")
    accuracies.set_xlabel("outer step")
    for axis in (losses, accuracies):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    save_figure(path, figure)


def _read(log: Path, config: Path) -> MetaRun:
    import yaml  # needs the extra [train]

    records = read_json_lines(log)
    return MetaRun(
        name=log.parent.name if log.stem == "log" else log.stem,
        config=yaml.safe_load(config.read_text()),
        steps=[record for record in records if "loss" in record],
        validations=[record for record in records if "validation" in record],
    )


def _table(runs: list[MetaRun]) -> str:
    headers = (
        "run",
        "estimator",
        "outer steps",
        "inner steps",
        "minutes",
        "first validation (%)",
        "best (%), at step",
        "last (%)",
        "diverged, skipped",
    )
    return github_table([_line(run) for run in runs], headers)


def _line(run: MetaRun) -> tuple[object, ...]:
    last = run.steps[-1] if run.steps else {"outer_step": 0, "inner_steps": 0}
    line = (
        run.name,
        run.config["estimator"]["kind"],
        last["outer_step"],
        f"{last['inner_steps']:,}",
        f"{last.get('seconds', 0) / 60:.0f}",
    )
    if not run.validations:
        return (*line, "none", "none", "none", "none")
    final = run.validations[-1]
    return (
        *line,
        _percent(run.validations[0]),
        f"{_percent(run.best)}, {run.best['outer_step']}",
        _percent(final),
        f"{final.get('diverged_total', 0)}, {final.get('skipped_total', 0)}",
    )


def _percent(record: dict[str, Any]) -> str:
    return f"{100 * _accuracy(record):.1f}"


def _accuracy(record: dict[str, Any]) -> float:
    return record["validation"]["accuracy"]
