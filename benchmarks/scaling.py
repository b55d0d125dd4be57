"""Measure the cost of a step against the number of parameters.

From ten thousand to a hundred million, each in a process of its own. Rows of the same
commit and settings are kept, and taken from step-cost where it has them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from .pictures import label_ends, save_figure, styles, write_title
from .report import github_table, origin_of, rows_report
from .runs import RESULTS, Row
from .step_cost import Measurement
from .step_cost.command import known_pairs, measure_pairs
from .step_cost.networks import NetworkName
from .step_cost.subjects import LABELS, SubjectName

Family: TypeAlias = Literal["mlp", "gpt"]

FAMILIES: dict[Family, tuple[NetworkName, ...]] = {
    "mlp": ("mlp-10k", "mlp-100k", "mlp-1m", "mlp-10m", "mlp-100m"),
    "gpt": ("gpt-10k", "gpt-100k", "gpt-1m", "gpt-10m", "gpt-2"),
}
FITTED_FROM = 1e5
"""Parameters from which slopes are fitted; below, fixed costs rule."""

_TITLES: dict[Family, str] = {
    "mlp": "Perceptrons of four square layers, 128 vectors",
    "gpt": "Transformers, 1,024 tokens",
}


ROWS = RESULTS / "scaling.jsonl"


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Which networks are measured, and how."""

    families: tuple[Family, ...] = ("mlp", "gpt")
    """Networks of one kind and growing width."""
    subjects: tuple[SubjectName, ...] = (
        "forward-backward",
        "adam-fused",
        "small-fc",
        "default-ff",
        "default",
    )
    """What to time."""
    largest: float = 2e7
    """Parameters beyond which nothing is measured anew, as names tell the sizes; rows
    of larger networks are taken from step-cost where it has them."""
    measure: Measurement = field(default_factory=Measurement)
    """How."""
    results: Path = ROWS
    """JSON lines file."""
    known: tuple[Path, ...] = (RESULTS / "step-cost.jsonl",)
    """Results of step-cost; a row made by the same commit and settings is copied."""


CONFIG = ScalingConfig()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A power law through measured costs."""

    slope: float
    """Exponent of the number of parameters."""
    scale: float
    """Cost at one parameter."""

    def at(self, size: float) -> float:
        """Return the cost at a number of parameters."""
        return self.scale * size**self.slope


def run(config: ScalingConfig, announce: Callable[[str], object]) -> None:
    """Measure every subject on every size; write one row each."""
    there = known_pairs(config.measure, (*config.known, config.results))
    pairs: list[tuple[NetworkName, SubjectName]] = [
        (network, subject)
        for family in config.families
        for network in FAMILIES[family]
        for subject in config.subjects
        if nominal_size(network) <= config.largest or (network, subject) in there
    ]
    measure_pairs(pairs, config.measure, config.results, announce, config.known)


def nominal_size(network: NetworkName) -> float:
    """Return the number of parameters that a network's name promises.

    Example:
        >>> nominal_size("mlp-100k")
        100000.0
    """
    number = network.split("-")[-1]
    units = {"k": 1e3, "m": 1e6}
    return 1.2e8 if network == "gpt-2" else float(number[:-1]) * units[number[-1]]


def fit(points: Sequence[tuple[float, float]]) -> Fit | None:
    """Return the power law of least squares in logarithms; None below two sizes.

    Args:
        points: number of parameters and cost, both positive.

    Example:
        >>> fit([(10, 5), (100, 50)])
        Fit(slope=1.0, scale=0.5)
    """
    if len({size for size, _ in points}) < 2:
        return None
    logs = [(math.log(size), math.log(cost)) for size, cost in points]
    mean_size = sum(size for size, _ in logs) / len(logs)
    mean_cost = sum(cost for _, cost in logs) / len(logs)
    slope = sum((x - mean_size) * (y - mean_cost) for x, y in logs) / sum(
        (x - mean_size) ** 2 for x, _ in logs
    )
    scale = math.exp(mean_cost - slope * mean_size)
    return Fit(slope=round(slope, 12), scale=float(f"{scale:.12g}"))


def _page(rows: list[Row]) -> list[str]:
    """Return a table for each family, then how to read them."""
    parts = ["# How the cost of a step grows"]
    for family, networks in FAMILIES.items():
        found = [row for row in rows if row["network"] in networks]
        if found:
            parts += [f"## {_TITLES[family]}", _table(found)]
    settings = rows[0]["settings"]
    return [
        *parts,
        origin_of(rows),
        "Milliseconds per step, median; slope: exponent of a power law fitted to the "
        f"networks of {FITTED_FROM:,.0f} parameters or more, 1 for a cost in "
        "proportion. Nanoseconds and bytes are those per parameter of the largest "
        "network that was measured; bytes are the peak beyond weights, gradients and "
        f"state. Where the first step took longer than {settings['seconds']:g} s, it "
        "is what counts. "
        "How each was measured stands in step-cost.md.",
    ]


def _table(rows: Sequence[Row]) -> str:
    sizes = sorted({row["num_parameters"] for row in rows if _is_measured(row)})
    names = {row["num_parameters"]: row["network"] for row in rows if _is_measured(row)}
    lines = []
    for subject in dict.fromkeys(row["subject"] for row in rows):
        own = [row for row in rows if row["subject"] == subject]
        costs = {row["num_parameters"]: row for row in own if _is_measured(row)}
        failed = {row["network"]: row["status"] for row in own if not _is_measured(row)}
        found = fit(_points(own))
        last = costs[max(costs)] if costs else None
        lines.append(
            [
                LABELS[subject],
                *(
                    f"{costs[size]['median_ms']:,.4g}"
                    if size in costs
                    else failed.get(names[size], "")
                    for size in sizes
                ),
                "" if found is None else f"{found.slope:.2f}",
                "" if last is None else f"{_ns(last):,.3g}",
                "" if last is None else _bytes(last),
            ]
        )
    heads = [f"{size:,}" for size in sizes]
    return github_table(lines, ("parameters", *heads, "slope", "ns", "bytes"))


def _points(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Return sizes and milliseconds that a slope is fitted to."""
    return [
        (row["num_parameters"], row["median_ms"])
        for row in rows
        if _is_measured(row) and row["num_parameters"] >= 0.9 * FITTED_FROM
    ]


def _is_measured(row: Row) -> bool:
    return row["status"] == "measured"


def _ns(row: Row) -> float:
    return 1e6 * row["median_ms"] / row["num_parameters"]


def _bytes(row: Row) -> str:
    peak = row["peak_bytes"]
    return "" if peak is None else f"{peak / row['num_parameters']:,.3g}"


def _draw(rows: Sequence[Row], file: Path) -> None:
    """Draw milliseconds against parameters, a panel for each family."""
    from matplotlib.figure import Figure

    drawn = [
        (_TITLES[family], [row for row in rows if row["network"] in networks])
        for family, networks in FAMILIES.items()
    ]
    drawn = [(title, found) for title, found in drawn if found]
    figure = Figure(figsize=(6.4 * len(drawn), 4), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    for panel, (title, found) in zip(panels, drawn, strict=True):
        panel.set(xlabel="parameters", ylabel="ms per step", xscale="log", yscale="log")
        ends = {}
        for subject in dict.fromkeys(row["subject"] for row in rows):
            own = [
                row for row in found if row["subject"] == subject and _is_measured(row)
            ]
            if not own:
                continue
            law = fit(_points(own))
            name = LABELS[subject] + ("" if law is None else f", slope {law.slope:.2f}")
            sizes = [row["num_parameters"] for row in own]
            times = [row["median_ms"] for row in own]
            color = styles([name])[name][0]
            panel.plot(sizes, times, "o", color=color)
            if law is not None:
                fitted = [size for size, _ in _points(own)]
                panel.plot(fitted, list(map(law.at, fitted)), color=color)
            ends[name] = (sizes[-1], times[-1])
        panel.grid(alpha=0.3)
        write_title(panel, title)
        label_ends(panel, ends)
    save_figure(file, figure)


report = rows_report("l2o benchmark scaling", _page, _draw)
