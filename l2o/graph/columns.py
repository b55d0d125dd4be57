"""Positions of the groups of a graph in its picture: columns by depth, in lines.

Units are inches; y grows upwards.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from .neural_graph import NeuralGraph, Neurons


@dataclass(frozen=True, slots=True)
class GroupBar:
    """Position of one group."""

    x: float
    """Centre of the bar."""
    top: float
    """Upper end of the bar, where its first neuron is."""
    height: float
    """Length of the bar."""
    line: int
    """Line of the picture, counted from above."""
    column: int
    """Column, counted over all lines."""

    def span(self, neurons: Neurons, size: int) -> tuple[float, float]:
        """Return the upper and lower end of some of the group's neurons."""
        first, last = min(neurons.index), max(neurons.index) + 1
        return (
            self.top - self.height * first / size,
            self.top - self.height * last / size,
        )


@dataclass(frozen=True, slots=True)
class DrawingLayout:
    """Positions of all groups, and the size of the picture."""

    places: tuple[GroupBar, ...]
    """One per group."""
    width: float
    """Width of the picture."""
    height: float
    """Height of the picture."""


COLUMN = 1.35
"""Distance between two columns."""
MARGIN = 0.9
"""Free space left and right of a line."""
_GAP = 0.62
"""Free space between two groups of a column, for their labels."""
_ARCS = 0.75
"""Free space above and below the groups of a line, for arcs."""


def place_groups(graph: NeuralGraph, *, columns: int = 18) -> DrawingLayout:
    """Return the position of every group.

    A group stands to the right of all groups that it reads. A line ends where the
    fewest groups are then read from a later line.

    Args:
        graph: the neural graph.
        columns: largest number of columns per line.
    """
    column_of = _find_columns(graph)
    members: dict[int, list[int]] = defaultdict(list)
    for group, column in enumerate(column_of):
        members[column].append(group)
    starts = _break_lines(graph, column_of, longest=columns)
    rows: dict[int, float] = {}
    places: dict[int, GroupBar] = {}
    bottom = 0.0
    for line, (start, stop) in enumerate(itertools.pairwise(starts)):
        stacks = [_stack(graph, members[column], rows) for column in range(start, stop)]
        middle = bottom - _ARCS - max(height for _, height in stacks) / 2
        for number, (stack, height) in enumerate(stacks):
            top = middle + height / 2
            for group in stack:
                size = bar_height(graph.groups[group].size)
                places[group] = GroupBar(
                    MARGIN + (number + 0.5) * COLUMN, top, size, line, start + number
                )
                rows[group] = top - size / 2 - middle
                top -= size + _GAP
        bottom = 2 * (middle - bottom) + bottom
    longest = max(stop - start for start, stop in itertools.pairwise(starts))
    return DrawingLayout(
        tuple(places[group] for group in range(len(graph.groups))),
        2 * MARGIN + longest * COLUMN,
        -bottom,
    )


def bar_height(size: int) -> float:
    """Return the length of the bar that stands for `size` neurons."""
    return 0.3 + 0.17 * math.log2(size + 1)


def joined(graph: NeuralGraph) -> Iterator[tuple[int, int]]:
    """Yield source and target group of every block and of every directed tie."""
    for block in graph.blocks:
        yield block.source.group, block.target.group
    for tie in graph.ties:
        if tie.kind != "dot":
            yield tie.source.group, tie.target.group


def _find_columns(graph: NeuralGraph) -> list[int]:
    """Return each group's column: the one after the last that it reads.

    Edges from a later group to an earlier one (recurrence) do not count. A group that
    reads nothing is placed just before the groups that read it.
    """
    columns = [0] * len(graph.groups)
    readers = {target for _, target in joined(graph)}
    first = set(range(len(columns))) - readers
    edges = sorted({(t, s) for s, t in joined(graph) if s < t or s in first})
    for target, source in edges:
        columns[target] = max(columns[target], columns[source] + 1)
    for source in first:
        behind = [columns[target] for target, other in edges if other == source]
        columns[source] = max(min(behind, default=1) - 1, 0)
    used = sorted(set(columns))
    return [used.index(column) for column in columns]


_LINE_COST = 1.0
"""Cost of a line; 1 is the cost of one group that is on an earlier line than a group
that reads it."""
_UNEVEN_COST = 0.01
"""Cost of a short line: this times the square of the columns that it lacks."""


def _break_lines(
    graph: NeuralGraph, column_of: list[int], *, longest: int
) -> list[int]:
    """Return the first column of each line, and the number of columns at the end.

    Dynamic programming over the last column of a line finds the cheapest lines.
    """
    count = max(column_of) + 1
    reach = list(column_of)  # the last column that reads each group
    for source, target in joined(graph):
        reach[source] = max(reach[source], column_of[target])
    cut = [
        sum(
            first < column <= last for first, last in zip(column_of, reach, strict=True)
        )
        for column in range(count + 1)
    ]
    cost, before = [0.0] * (count + 1), [0] * (count + 1)
    for stop in range(1, count + 1):
        options = {
            start: cost[start]
            + cut[start]
            + _LINE_COST
            + _UNEVEN_COST * (longest - (stop - start)) ** 2
            for start in range(max(0, stop - longest), stop)
        }
        before[stop] = min(options, key=options.__getitem__)
        cost[stop] = options[before[stop]]
    starts = [count]
    while starts[-1]:
        starts.append(before[starts[-1]])
    return starts[::-1]


def _stack(
    graph: NeuralGraph, groups: list[int], rows: dict[int, float]
) -> tuple[list[int], float]:
    """Return the groups of a column from above, and the height they take.

    Groups are ordered by the mean height of the groups that they read.
    """

    def height_of_sources(group: int) -> float:
        found = [
            rows[source]
            for source, target in joined(graph)
            if target == group and source in rows
        ]
        return sum(found) / len(found) if found else -math.inf

    order = sorted(groups, key=lambda group: (-height_of_sources(group), group))
    height = sum(bar_height(graph.groups[group].size) for group in order)
    return order, height + _GAP * (len(order) - 1)
