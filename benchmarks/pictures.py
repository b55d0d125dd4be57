"""Curves as small PNG pictures; an optimizer has the same colour in all of them."""

import io
import re
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from l2o.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "ng-gnn": "#0072B2",
    "ff": "#009E73",
    "base": "#332288",
    "ng-gnn-neurons": "#44AA99",
    "ng-t": "#CC79A7",
    "lstm": "#E69F00",
    "nfn": "#8C564B",
    "teacher": "#222222",
    "adam": "#D55E00",
    "adamw": "#CCA300",
    "muon": "#882255",
    "schedule-free": "#7F9C2D",
    "sgd": "#888888",
    "torch adam": "#D55E00",
    "forward + backward": "#888888",
    "per-parameter mlp": "#8C564B",
    "mlp": "#888888",
    "set nn": "#CCA300",
    "dwsnet": "#D55E00",
}
"""Colour of a curve by the beginning of its label, in lower case; the longest one that
fits counts."""

_OTHERS = ("#AA4499", "#DDCC77", "#117733", "#CC6677", "#88CCEE")
"""Colours of labels that the table does not know, in their order."""

_STYLES = ("-", "--", ":", "-.")
"""Line styles of curves that share a colour."""

_REACH = 2
"""Points on either side that a drawn point averages with its own."""

_TOP, _BOTTOM = 10.0, 1e-3
"""Highest and lowest loss that is drawn; guessing at ten classes costs 2.3 nats."""

_SPACING = 0.075
"""Least distance between the labels of two curves, as a share of a panel's height; less
if there are too many for that."""

_LONGEST = 52
"""Characters of the longest label that is written in full."""

_ROOM = 0.08
"""Height of a line of the title, as a share of a panel's."""

_PALETTE = 128
"""Colours of a PNG file."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves that share their axes."""

    title: str
    """Stands inside the frame."""
    curves: dict[str, list[list[float | None]]]
    """Label to one curve per seed; None marks what is not finite."""
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
    seed diverges, since the mean of the others would be too good. Each label stands at
    the end of its curve, with the value there.

    Args:
        path: the PNG file to write.
        panels: drawn row by row.
        columns: number of panels per row.

    Raises:
        OSError: if the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: needs no display

    num_rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(6.4 * columns, 3.4 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, columns, squeeze=False).flatten()
    for panel, axis in zip(panels, axes, strict=False):
        _draw(panel, axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    save_figure(path, figure)


def save_figure(path: Path, figure: "Figure", *, dpi: int = 100) -> None:
    """Write a PNG file of few colours, whole or not at all.

    Args:
        path: the file.
        figure: what it shows.
        dpi: pixels per inch.

    Raises:
        OSError: if the file cannot be written.
    """
    from PIL import Image  # comes with matplotlib

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi)
    picture = Image.open(full).convert("RGB")
    picture.quantize(_PALETTE, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    write_whole(path, small.getvalue())


def color_of(label: str) -> str | None:
    """Return the colour of an optimizer by its label; None if it has none.

    Example:
        >>> color_of("Adam, lr 0.01") == color_of("adam")
        True
    """
    known = [name for name in COLORS if re.match(rf"{re.escape(name)}\b", label, re.I)]
    return COLORS[max(known, key=len)] if known else None


def styles(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and line style of each label; no two are alike if few are unknown.

    Args:
        labels: of all curves that share axes, in order.
    """
    others, found = cycle(_OTHERS), {}
    for label in labels:
        color = color_of(label) or next(others)
        same = sum(used == color for used, _ in found.values())
        found[label] = (color, _STYLES[same % len(_STYLES)])
    return found


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


def label_ends(axis: "Axes", ends: dict[str, tuple[float, float]]) -> None:
    """Write labels right of the frame, each at the height where its curve ends.

    Labels whose curves end close to each other are moved apart and joined to their
    ends. Limits and scales of the axes must be set before.

    Args:
        axis: where the curves are drawn.
        ends: label to the last point of its curve, in data coordinates.
    """
    to_share = (axis.transData + axis.transAxes.inverted()).transform
    bottom, top = axis.get_ylim()
    drawn = {
        label: (step, min(top, max(bottom, value)))
        for label, (step, value) in ends.items()
    }
    heights = {label: float(to_share(end)[1]) for label, end in drawn.items()}
    order = sorted(ends, key=lambda label: heights[label])
    places = _apart([heights[label] for label in order])
    look = styles(ends)
    for label, place in zip(order, places, strict=True):
        color = look[label][0]
        axis.annotate(
            f"{_shortened(label)}  {ends[label][1]:.3g}",
            xy=drawn[label],
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=color,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "lw": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def write_title(axis: "Axes", title: str) -> None:
    """Write a title inside the frame, in the corner that curves leave free.

    Where no corner is free, the vertical axis is extended upwards. So the title comes
    before `label_ends`.

    Args:
        axis: where the curves are drawn, with their limits and scales.
        title: may have several lines; long ones are wrapped.
    """
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, 42)]
    to_share = (axis.transData + axis.transAxes.inverted()).transform
    points = [point for line in axis.lines for point in to_share(line.get_xydata())]
    free: dict[tuple[str, str], float] = {}
    for side, first, last in (("right", 0.3, 1.0), ("left", 0.0, 0.7)):
        heights = [y for x, y in points if first <= x <= last] or [0.5]
        free[side, "top"], free[side, "bottom"] = 1 - max(heights), min(heights)
    side, edge = max(free, key=lambda corner: free[corner])
    if free[side, edge] < _ROOM * len(lines):
        side, edge = "right", "top"
        share = 1 + _ROOM * len(lines)
        to_data = (axis.transAxes + axis.transData.inverted()).transform
        axis.set_ylim(top=to_data((0, share))[1])
    axis.text(
        0.98 if side == "right" else 0.02,
        0.97 if edge == "top" else 0.04,
        "\n".join(lines),
        transform=axis.transAxes,
        ha=side,
        va=edge,
        fontsize=8.5,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
    )


def _shortened(label: str) -> str:
    """Return a label without folders, of at most as many characters as have room."""
    name = re.sub(r"\S*/", "", label)
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _draw(panel: Panel, axis: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    look, ends = styles(panel.curves), {}
    reach = _REACH if panel.is_loss else 0
    for label, curves in panel.curves.items():
        points = band([smooth(curve, reach) for curve in curves])
        if not points:
            continue
        steps = [(index + 1) * panel.every for index in range(len(points))]
        means, lows, highs = zip(*points, strict=True)
        color, style = look[label]
        axis.plot(steps, means, color=color, linestyle=style, linewidth=1.3)
        axis.fill_between(steps, lows, highs, color=color, alpha=0.15, linewidth=0)
        ends[label] = (steps[-1], means[-1])
    axis.set_xlabel(panel.axis)
    axis.set_ylabel(panel.measure)
    axis.grid(alpha=0.3)
    axis.margins(x=0)
    ticks = [1, 2, 2.5, 5, 10]  # matplotlib's own choice, whole numbers only
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=ticks))
    if panel.is_loss and ends:
        _set_log_axis(axis)
    write_title(axis, panel.title)
    label_ends(axis, ends)


def _set_log_axis(axis: "Axes") -> None:
    """Make the vertical axis logarithmic, within the losses that are drawn."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    bottom, top = axis.get_ylim()
    bottom, top = max(bottom, _BOTTOM), min(top, _TOP)
    if top <= bottom:  # all curves lie outside
        bottom, top = _BOTTOM, _TOP
    axis.set_ylim(bottom, top)
    subs = (1.0, 3.0) if top > 50 * bottom else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _apart(heights: Sequence[float]) -> list[float]:
    """Return rising heights moved apart by the least distance, close to their own."""
    least = min(_SPACING, 1 / max(1, len(heights) - 1))
    groups: list[list[float]] = []  # labels that touch, by the heights of their ends

    def low(group: Sequence[float]) -> float:
        return statistics.fmean(group) - least * (len(group) - 1) / 2

    for height in heights:
        groups.append([height])
        while len(groups) > 1 and low(groups[-1]) < low(groups[-2]) + least * len(
            groups[-2]
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    places = [
        low(group) + index * least for group in groups for index in range(len(group))
    ]
    for index in range(len(places)):  # none below the frame
        floor = places[index - 1] + least if index else 0.0
        places[index] = max(places[index], floor)
    for index in reversed(range(len(places))):  # none above it
        above = len(places) - 1 - index
        places[index] = min(places[index], 1.0 - above * least)
    return places
