"""Training curves as pictures."""

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2o.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REACH = 2
"""Points on either side that a drawn point averages with its own."""

_LEGEND_INSIDE = 6
"""Most curves whose legend has room between them; it stands beside more."""

_TOP = 10.0
"""Highest loss that is drawn, in nats; guessing at ten classes costs 2.3."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves that share their axes."""

    title: str
    """Stands above."""
    curves: dict[str, list[list[float | None]]]
    """Label to one curve a seed; None marks what is not finite."""
    every: int
    """Steps that one point of a curve averages, or between two evaluations."""
    measure: str = "training loss (nats)"
    """What is drawn, with its unit."""
    is_loss: bool = True
    """Whether it is drawn smoothed on a logarithmic axis, as a loss that fluctuates."""
    axis: str = "step"
    """What is counted along the horizontal axis."""


def save_curves(path: Path, panels: Sequence[Panel], columns: int = 1) -> None:
    """Draw the mean of the seeds with a band from the lowest to the highest.

    Losses are smoothed by a running mean over five points. Curves end where the first
    seed diverges, since the mean of the others would be too good.

    Args:
        path: the PNG file to write.
        panels: drawn row by row.
        columns: panels beside each other.

    Raises:
        OSError: if the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: needs no display
    from matplotlib.ticker import (
        LogLocator,
        MaxNLocator,
        NullFormatter,
        StrMethodFormatter,
    )

    num_rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(8 * columns, 5 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, columns, squeeze=False).flatten()
    for panel, axis in zip(panels, axes, strict=False):
        for label, curves in panel.curves.items():
            reach = _REACH if panel.is_loss else 0
            points = band([smooth(curve, reach) for curve in curves])
            if not points:
                continue
            steps = [(index + 1) * panel.every for index in range(len(points))]
            means, lows, highs = zip(*points, strict=True)
            (line,) = axis.plot(steps, means, label=_legend(label, curves))
            axis.fill_between(
                steps, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0
            )
        axis.set_title(panel.title, fontsize="medium", wrap=True)
        axis.set_xlabel(panel.axis)
        ticks = [1, 2, 2.5, 5, 10]  # matplotlib's own choice, whole numbers only
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=ticks))
        axis.set_ylabel(panel.measure)
        axis.grid(alpha=0.3)
        if axis.lines:
            many = len(axis.lines) > _LEGEND_INSIDE
            beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            axis.legend(**beside if many else {})
        if axis.lines and panel.is_loss:
            axis.set_yscale("log")
            axis.set_ylim(top=min(axis.get_ylim()[1], _TOP))
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
    save_figure(path, figure, dpi=150)


def save_figure(path: Path, figure: "Figure", *, dpi: int) -> None:
    """Write a PNG file, whole or not at all.

    Args:
        path: the file.
        figure: what it shows.
        dpi: pixels an inch.

    Raises:
        OSError: if the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    write_whole(path, buffer.getvalue())


def _legend(label: str, curves: Sequence[Sequence[float | None]]) -> str:
    diverged = sum(None in curve for curve in curves)
    return f"{label}, n = {len(curves)}" + (f", {diverged} diverged" * bool(diverged))


def smooth(curve: Sequence[float | None], reach: int = _REACH) -> list[float]:
    """Return the running mean over `reach` points either side, up to the first None."""
    end = curve.index(None) if None in curve else len(curve)
    known = [value for value in curve[:end] if value is not None]
    return [
        statistics.fmean(known[max(0, index - reach) : index + reach + 1])
        for index in range(len(known))
    ]


def band(curves: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    """Return mean, lowest and highest at each point that all curves reach."""
    points = zip(*curves, strict=False)
    return [(statistics.fmean(point), min(point), max(point)) for point in points]
