"""The neural graph as a picture."""

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from .columns import COLUMN, DrawingLayout, GroupBar, place_groups
from .neural_graph import NeuralGraph, NeuronGroup, Neurons, WeightBlock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR = 0.16
_HEADER = 0.7
_THIN = 0.07
_LETTERS = 21
"""Longest line of a label, in characters; longer ones would overlap."""

_ROLES = {
    "input": "#3b6fb6",
    "hidden": "#5f6b76",
    "output": "#d9822b",
    "isolated": "#c23b3b",
}
_BLOCKS = {
    "weights": "#7d9fca",
    "one weight per neuron": "#58a88a",
    "tied weights": "#b58cc9",
}
_TIES = {
    "residual": "#2e8b57",
    "gate": "#8a5cc2",
    "dot": "#c23b3b",
    "move": "#8c8c8c",
}


def draw_graph(graph: NeuralGraph, file: Path, *, dots_per_inch: int = 110) -> None:
    """Draw the graph into a file.

    A bar is a group of neurons, longer for more of them (in the logarithm), coloured
    by role and cut where a symmetry ends (attention heads). A ribbon is a block of
    weights, thicker for more of them. Arcs above are ties: residual sums, gates,
    attention scores, moved values. A large graph is broken into several lines.

    Args:
        graph: the neural graph.
        file: what to write; its suffix (.png, .svg, .pdf) is the format.
        dots_per_inch: resolution of a PNG.

    Raises:
        ModuleNotFoundError: if matplotlib is missing.
        ValueError: if matplotlib cannot write a format of this suffix.
    """
    from matplotlib.figure import Figure

    placement = place_groups(graph)
    width = max(placement.width, 8.0)
    figure = Figure(figsize=(width, placement.height + _HEADER))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(-placement.height, _HEADER))
    axes.axis("off")
    painter = _Painter(graph, placement, axes)
    painter.paint_header(width)
    for block in graph.blocks:
        painter.paint_block(block)
    for tie in graph.ties:
        painter.paint_tie(tie.kind, tie.source, tie.target)
    for index, group in enumerate(graph.groups):
        painter.paint_group(index, group)
    try:
        figure.savefig(file, dpi=dots_per_inch)
    except ValueError as error:
        raise ValueError(
            f"draw_graph needs a file type that matplotlib writes; got {str(file)!r}. "
            "Name it .png, .svg or .pdf."
        ) from error


class _Painter:
    def __init__(
        self, graph: NeuralGraph, placement: DrawingLayout, axes: "Axes"
    ) -> None:
        self.graph = graph
        self.places = placement.places
        self.axes = axes
        self.right: dict[int, float] = {}
        for place in self.places:
            end = place.x + 0.6 * COLUMN
            self.right[place.line] = max(end, self.right.get(place.line, end))
        names = [*graph.shapes, *(group.name for group in graph.groups)]
        self.prefix = common_prefix([name for name in names if "." in name])

    def paint_header(self, width: float) -> None:
        """Draw the title and the legend."""
        graph = self.graph
        title = (
            f"{graph.num_parameters:,} parameters, {graph.placed_share:.1%} placed; "
            f"{len(graph.groups)} groups, {len(graph.blocks)} blocks; {graph.source}"
        )
        self.axes.text(0.2, _HEADER - 0.22, title, fontsize=9, va="center")
        kinds = {block_kind(block) for block in graph.blocks}
        ties = {tie.kind for tie in graph.ties}
        roles = {group.role for group in graph.groups}
        shown = [(name, color, 0.16) for name, color in _ROLES.items() if name in roles]
        shown += [(name, _BLOCKS[name], 0.1) for name in _BLOCKS if name in kinds]
        shown += [(name, _TIES[name], 0.03) for name in _TIES if name in ties]
        x = 0.2
        for name, color, thickness in shown:
            y = _HEADER - 0.52
            xs, ys = (x, x + 0.22), (y - thickness / 2, y + thickness / 2)
            self.axes.fill_between(xs, *ys, color=color, linewidth=0)
            words = "attention scores" if name == "dot" else name
            self.axes.text(x + 0.28, y, words, fontsize=7, va="center")
            x += 0.48 + 0.062 * len(words)

    def paint_group(self, index: int, group: NeuronGroup) -> None:
        """Draw a group's bar, cut where a symmetry ends, and its labels."""
        place = self.places[index]
        left = place.x - _BAR / 2
        self.axes.fill_between(
            (left, left + _BAR),
            place.top - place.height,
            place.top,
            color=_ROLES[group.role],
            linewidth=0,
            zorder=3,
        )
        for share in cuts(self.graph, index):
            y = place.top - place.height * share
            xs = (left, left + _BAR)
            self.axes.plot(xs, (y, y), color="white", linewidth=0.8, zorder=4)
        y = place.top - place.height - 0.04
        style = {"ha": "center", "va": "top", "zorder": 5}
        name = self._short(group.name)
        self.axes.text(place.x, y, name, fontsize=6.5, **style)
        y -= 0.1 * (name.count("\n") + 1)
        note = wrap_name(f"{group.size:,} {describe(group)}".strip(), _LETTERS + 4, " ")
        self.axes.text(place.x, y, note, fontsize=5.5, color="#666666", **style)

    def paint_block(self, block: WeightBlock) -> None:
        """Draw a ribbon from source to target, on two lines if necessary."""
        start, source = self._end(block.source)
        stop, target = self._end(block.target)
        thickness = 0.03 * math.log2(1 + block.view.numel)
        if abs(stop.column - start.column) > 1:
            thickness = min(thickness, _THIN)  # bars that it passes must stay readable
        style = {"color": _BLOCKS[block_kind(block)], "alpha": 0.45, "linewidth": 0}
        x0, x1 = start.x + _BAR / 2, stop.x - _BAR / 2
        here, there = narrowed(source, thickness), narrowed(target, thickness)
        if start.line != stop.line:
            self._ribbon(x0, here, self.right[start.line], here, style)
            self._ribbon(0.1, there, x1, there, style)
        elif start.column < stop.column:
            self._ribbon(x0, here, x1, there, style)
            if start.column + 1 == stop.column:
                self._label_ribbon(block, (x0 + x1) / 2, (*here, *there))
        else:
            self._loop(start, stop, style["color"])

    def paint_tie(self, kind: str, source: Neurons, target: Neurons) -> None:
        """Draw an arc above the bars, on two lines if necessary."""
        start, upper = self._end(source)
        stop, lower = self._end(target)
        color = _TIES[kind]
        if start.column == stop.column:
            self._bracket(start.x, sum(upper) / 2, sum(lower) / 2, color)
        elif start.line != stop.line:
            edge = (self.right[start.line], start.top)
            self._arc((start.x, start.top), edge, color)
            self._arc((0.1, stop.top), (stop.x, stop.top), color)
        else:
            self._arc((start.x, start.top), (stop.x, stop.top), color)

    def _end(self, neurons: Neurons) -> tuple[GroupBar, tuple[float, float]]:
        """Return the bar of a group, and the ends of the neurons on it."""
        place = self.places[neurons.group]
        return place, place.span(neurons, self.graph.groups[neurons.group].size)

    def _label_ribbon(
        self, block: WeightBlock, x: float, ends: tuple[float, ...]
    ) -> None:
        """Name the parameter, with its parts and cells."""
        name = self._short(block.parameter)
        if block.parts > 1 and block_kind(block) == "weights":
            name += f"\n{block.parts} parts"
        if block.cells:
            name += "\n" + "x".join(map(str, block.cells))
        style = {"ha": "center", "va": "center", "zorder": 2, "color": "#27405f"}
        self.axes.text(x, sum(ends) / 4, name, fontsize=5, **style)

    def _short(self, name: str) -> str:
        return wrap_name(name.removeprefix(self.prefix), _LETTERS)

    def _ribbon(
        self,
        x0: float,
        here: tuple[float, float],
        x1: float,
        there: tuple[float, float],
        style: dict,
    ) -> None:
        """Fill between two curves. Longer ones bend down, to leave others visible."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path as Outline

        bow = 0.16 * max((x1 - x0) / COLUMN - 1, 0) ** 0.7
        bend = (x1 - x0) * 0.45
        (top0, low0), (top1, low1) = here, there
        points = [
            *((x0, top0), (x0 + bend, top0 - bow), (x1 - bend, top1 - bow)),
            *((x1, top1), (x1, low1), (x1 - bend, low1 - bow)),
            *((x0 + bend, low0 - bow), (x0, low0), (x0, top0)),
        ]
        codes = [Outline.MOVETO, *[Outline.CURVE4] * 3, Outline.LINETO]
        codes += [*[Outline.CURVE4] * 3, Outline.CLOSEPOLY]
        self.axes.add_patch(PathPatch(Outline(points, codes), **style))

    def _arc(
        self, start: tuple[float, float], stop: tuple[float, float], color: str
    ) -> None:
        """Draw an arc above two points, higher if they are further apart."""
        (x0, y0), (x1, y1) = start, stop
        rise = min(0.25 + 0.08 * abs(x1 - x0) / COLUMN, 0.7)
        peak = max(y0, y1) + rise
        self._curve([start, (x0, peak), (x1, peak), stop], color)

    def _bracket(self, x: float, y0: float, y1: float, color: str) -> None:
        """Draw a curve right of one bar, or of two in one column."""
        x += _BAR / 2
        self._curve([(x, y0), (x + 0.45, y0), (x + 0.45, y1), (x, y1)], color)

    def _loop(self, start: GroupBar, stop: GroupBar, color: str) -> None:
        """Draw a block to an earlier column, below the bars."""
        low0, low1 = start.top - start.height, stop.top - stop.height
        depth = min(low0, low1) - 0.3
        side = _BAR * 1.5
        points = [
            (start.x + _BAR / 2, low0 + 0.1),
            (start.x + side * 2, depth),
            (stop.x - side * 2, depth),
            (stop.x - _BAR / 2, low1 + 0.1),
        ]
        self._curve(points, color, width=2.2)

    def _curve(
        self, points: list[tuple[float, float]], color: str, width: float = 1.1
    ) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path as Outline

        outline = Outline(points, [Outline.MOVETO, *[Outline.CURVE4] * 3])
        style = {"facecolor": "none", "edgecolor": color, "alpha": 0.8}
        self.axes.add_patch(PathPatch(outline, linewidth=width, **style))


def describe(group: NeuronGroup) -> str:
    """Return the names of the operations on a group's values."""
    names = [
        operation.name.removeprefix("native_").removesuffix("_with_indices")
        for operation in group.operations
    ]
    return " ".join(name for name, _ in itertools.groupby(names))


def block_kind(block: WeightBlock) -> str:
    """Return the kind of block that the colour of a ribbon shows."""
    if block.is_alias:
        return "tied weights"
    one_to_one = block.view.shape[1:3] == (1, 1) and block.parts > 1
    return "one weight per neuron" if one_to_one else "weights"


def cuts(graph: NeuralGraph, group: int) -> list[float]:
    """Return where symmetries begin and end inside a group, as shares of its size."""
    size = graph.groups[group].size
    found = set()
    for symmetry in graph.symmetries:
        for member in symmetry.members:
            index = member.index
            if member.group == group and isinstance(index, range) and index.step == 1:
                found |= {index.start, index.stop}
    return sorted(place / size for place in found - {0, size})


def narrowed(span: tuple[float, float], thickness: float) -> tuple[float, float]:
    """Return the middle of a span (upper and lower end), of limited thickness."""
    top, low = span
    middle, half = (top + low) / 2, min(top - low, thickness) / 2
    return middle + half, middle - half


def common_prefix(names: list[str]) -> str:
    """Return the module, with its dot, that all of several dotted names lie in."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    common = itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)
    return "".join(f"{parts[0]}." for parts in common)


def wrap_name(name: str, letters: int, separator: str = ".") -> str:
    """Return a name on at most two lines; what does not fit loses its beginning."""
    lines = [""]
    for part in name.split(separator):
        joined = f"{lines[-1]}{separator}{part}" if lines[-1] else part
        if len(joined) <= letters or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(part)
    lines = [
        line if len(line) <= letters else f"…{line[1 - letters :]}" for line in lines
    ]
    return "\n".join(lines[-2:])
