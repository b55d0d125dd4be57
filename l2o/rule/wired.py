"""A neural graph as the neuron-level rule reads it: static numbers and indices."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from l2o.graph import NeuralGraph, derived
from l2o.graph.linear_maps import fan_ins
from l2o.graph.matrices import MatrixStacks, Stack, find_matrices, host_matrices
from l2o.graph.matrix_pieces import KINDS, TIE_KINDS, Matrix
from l2o.nets.neuron_gnn import Means, NeuronWiring

from .base_rates import role_of

NUM_STATIC = 7
"""Static features per neuron: four roles, depth from both ends, size of the group."""
NUM_TIE_KINDS = 2 * len(TIE_KINDS)
"""Kinds of edges without a matrix, along and against."""

NUM_MATRIX_STATIC = len(KINDS) + 9
"""Static features per matrix: its kind, and nine of its place and size."""


@dataclass(frozen=True, slots=True)
class Wired:
    """A graph for the network, on one device in one type."""

    stacks: MatrixStacks
    wiring: NeuronWiring
    static: Tensor
    """`[matrix + 1, feature]`."""
    roles: Tensor
    """`[matrix + 1]`: what each matrix is for, a place in `ROLES`; 0 for the
    padding."""
    owner: Tensor
    """`[matrix + 1]`: place of its parameter in `graph.shapes`; 0 for the padding."""
    per_line_or_matrix: Tensor
    """`[line + matrix + 1]`: one over the number of entries of each line, then of each
    matrix."""
    heights: Tensor
    """`[matrix + 1]`: number of rows."""
    widths: Tensor
    """`[matrix + 1]`: number of columns."""
    is_map: Tensor
    """`[matrix + 1]`: 1 for linear maps, else 0."""
    has_columns: Tensor
    """`[matrix + 1]`: 1 where columns belong to neurons, else 0."""
    per_row_or_matrix: Tensor
    """`[row + matrix + 1]`: one over the number of entries of each row, then of each
    matrix."""
    roots: Tensor
    """`[matrix + 1]`: root of the number of entries."""
    num_rows: int
    """Number of lines that are rows; columns follow."""
    all_matrices: Tensor
    """`[line + matrix + 1]`: the matrix of each line, then of each matrix."""
    one: Tensor
    """`[1]`: 1."""
    zero: Tensor
    """`[1]`: 0."""

    def row_slice(self, number: int) -> slice:
        """Return which lines are the rows of a stack."""
        sizes = [stack.shape[0] * stack.shape[1] for stack in self.stacks.stacks]
        start = sum(sizes[:number])
        return slice(start, start + sizes[number])

    def column_slice(self, number: int) -> slice:
        """Return which lines are the columns of a stack; none where it has none."""
        sizes = [
            stack.shape[0] * stack.shape[2] if stack.has_columns else 0
            for stack in self.stacks.stacks
        ]
        start = self.num_rows + sum(sizes[:number])
        return slice(start, start + sizes[number])


def wire(graph: NeuralGraph, like: Tensor) -> Wired:
    """Return a graph as the network reads it; computed once per device and type.

    Args:
        graph: the neural graph.
        like: a tensor of that device and type.
    """
    return _wire(graph, like.device, like.dtype)


@derived
def _wire(graph: NeuralGraph, device: torch.device, dtype: torch.dtype) -> Wired:
    with torch.device("cpu"):  # whatever the user's default device is
        return _wired(graph, device, dtype)


def _wired(graph: NeuralGraph, device: torch.device, dtype: torch.dtype) -> Wired:
    stacks = host_matrices(graph, is_split=device.type == "cpu")
    matrices, num_nodes = stacks.matrices, len(stacks.nodes)
    order = {name: place for place, name in enumerate(graph.shapes)}
    fans = fan_ins(graph)
    static = [_matrix_static(graph, matrix, fans) for matrix in matrices]
    neuron, matrix = _lines(stacks)
    num_rows = sum(stack.shape[0] * stack.shape[1] for stack in stacks.stacks)
    side = (torch.arange(len(neuron)) >= num_rows).long()
    shapes = torch.tensor([[*m.shape] for m in matrices] + [[1, 1]])
    lengths = shapes[matrix].flip(1).gather(1, side[:, None]).squeeze(1)
    tied, senders, receivers = _ties(stacks)

    def whole(values: Tensor) -> Tensor:
        return values.to(device)

    def real(values: Tensor) -> Tensor:
        return values.to(dtype=dtype, device=device)

    def means(of: Means) -> Means:
        return of.to(device, dtype)

    places, size = 2 * matrix + side, 2 * (len(matrices) + 1)
    wiring = NeuronWiring(
        neuron=whole(neuron),
        matrix=whole(matrix),
        at_neurons=means(Means.of(2 * neuron + side, 2 * (num_nodes + 1))),
        at_matrices=means(Means.of(places, size, neuron)),
        sides=real(torch.stack([1 - side, side], dim=1)),
        neurons=real(_neuron_static(graph, stacks)),
        tied=whole(tied),
        senders=whole(senders),
        receivers=whole(receivers),
        at_receivers=means(Means.of(receivers, num_nodes + 1, senders)),
    )
    everything = torch.cat([matrix, torch.arange(len(matrices) + 1)])
    return Wired(
        stacks=find_matrices(graph, device),
        wiring=wiring,
        static=real(torch.tensor([*static, [0.0] * NUM_MATRIX_STATIC])),
        roles=whole(torch.tensor([*(role_of(graph, m) for m in matrices), 0])),
        owner=whole(torch.tensor([*(order[m.parameter] for m in matrices), 0])),
        per_line_or_matrix=real(1 / torch.cat([lengths, shapes.prod(1)]).double()),
        per_row_or_matrix=real(
            1 / torch.cat([lengths[:num_rows], shapes.prod(1)]).double()
        ),
        heights=real(shapes[:, 0]),
        widths=real(shapes[:, 1]),
        is_map=real(torch.tensor([*(m.is_map for m in matrices), False])),
        has_columns=real(
            torch.tensor([*(bool(m.column_neurons) for m in matrices), False])
        ),
        roots=real(shapes.double().prod(1).sqrt()),
        num_rows=num_rows,
        all_matrices=whole(everything),
        one=real(torch.ones(1)),
        zero=real(torch.zeros(1)),
    )


def _matrix_static(
    graph: NeuralGraph, matrix: Matrix, fans: Mapping[str, int]
) -> list[float]:
    """Return the static features of a matrix: its kind, place and size."""
    target = graph.groups[matrix.target]
    source = None if matrix.source is None else graph.groups[matrix.source]
    rows, columns = matrix.shape
    return [
        *(float(matrix.kind == kind) for kind in KINDS),
        float(matrix.is_unplaced),
        float(source is not None and source.role == "input"),
        float(target.role == "output"),
        target.depth,
        1 - target.depth,
        log(fans.get(matrix.parameter, 1)) / 5,
        log(rows) / 5,
        log(columns) / 5,
        log(matrix.cells) / 5 if source is not None else 0.0,
    ]


def _neuron_static(graph: NeuralGraph, stacks: MatrixStacks) -> Tensor:
    """Return `[neuron + 1, static]`."""
    roles = ("input", "hidden", "output", "isolated")
    by_group = [
        [
            *(float(group.role == name) for name in roles),
            *(group.depth, 1 - group.depth, log(max(group.size, 1)) / 5),
        ]
        for group in graph.groups
    ]
    sizes = torch.tensor([group.size for group in graph.groups])
    group_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    nodes = torch.tensor(stacks.nodes, dtype=torch.int64)
    which = torch.cat([group_of[nodes], torch.tensor([len(sizes)])])
    return torch.tensor([*by_group, [0.0] * NUM_STATIC])[which]


def _lines(stacks: MatrixStacks) -> tuple[Tensor, Tensor]:
    """Return neuron and matrix of every row, then of every column."""

    def owners(stack: Stack, numbers: Tensor) -> Tensor:
        own = torch.arange(stack.matrices.start, stack.matrices.stop)
        is_padding = numbers.flatten() == len(stacks.nodes)
        own = own.repeat_interleave(numbers.shape[1])
        # A row without a neuron does not exist; a column without one has no line.
        return own.masked_fill(is_padding, len(stacks.matrices))

    neurons, matrices = [], []
    for stack in stacks.stacks:
        neurons.append(stack.row_neurons)
        matrices.append(owners(stack, neurons[-1]))
    for stack in stacks.stacks:
        if stack.has_columns:
            neurons.append(stack.column_neurons)
            matrices.append(owners(stack, neurons[-1]))
    return torch.cat([item.flatten() for item in neurons]), torch.cat(matrices)


def _ties(stacks: MatrixStacks) -> tuple[Tensor, Tensor, Tensor]:
    """Return who sends, and senders and receivers of both directions of every tie."""
    count = len(TIE_KINDS)
    ends, slots, receivers = [], [], []
    for kind, source, target in stacks.ties:
        slot = TIE_KINDS.index(kind)
        ends += [source, target]
        slots += [slot, slot if kind == "dot" else slot + count]
        receivers += [target, source]
    table = torch.tensor([ends, slots, receivers], dtype=torch.int64)
    tied, places = table[0].unique(return_inverse=True)
    return tied, places * NUM_TIE_KINDS + table[1], table[2]
