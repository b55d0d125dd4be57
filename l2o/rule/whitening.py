"""Whitened momenta of the linear maps of a graph."""

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from l2o.graph import NeuralGraph, View, WeightBlock, derived
from l2o.graph.layout import put_views, take_view
from l2o.graph.linear_maps import fan_ins
from l2o.nets.fast_ops import in_plain_eager, new_empty

from .newton_schulz import GROUP_ROWS, SMALL, whiten
from .state import ADAM_DECAY, TINY, Averages, ParameterState, State, Tensors, widened


def look_ahead(grad: Tensor, state: ParameterState, momentum: int) -> Tensor:
    """Return Nesterov's look ahead on Adam's momentum.

    Args:
        grad: `[*shape]`.
        state: after this gradient.
        momentum: index of Adam's momentum, `Averages.adam_momentum`.
    """
    average = state["momenta"][momentum].to(grad.dtype)  # it may be in bfloat16
    out = new_empty(grad, grad.shape) if in_plain_eager() else None
    return torch.lerp(average, grad, 1 - ADAM_DECAY, out=out)


def whiten_momenta(
    graph: NeuralGraph,
    grads: Tensors,
    state: State,
    averages: Averages,
    group_rows: int = GROUP_ROWS,
) -> dict[str, Tensor]:
    """Return the whitened look ahead of every parameter that is a linear map.

    A matrix is one linear map: rows and columns may be permuted, each alike for all
    entries. So packed projections are whitened one by one, and the parts of a grouped
    convolution too; otherwise renumbering the neurons of one part would change all.

    Whitening brings a momentum to unit size however small it has become. So that it
    dies out where gradients do, each row and each column is multiplied by a gate: 1 as
    long as its gradient, or its momentum of the shortest memory, has at least an eighth
    of the size of the momentum that is whitened; eight times their ratio below that.

    Args:
        graph: the neural graph of the parameters.
        grads: name to gradient, for every parameter of the graph.
        state: name to state, after these gradients.
        averages: what the state holds.
        group_rows: as for `whiten`.

    Returns:
        Name to `[*shape]`, for the parameters that `fan_ins` names.
    """
    number = averages.adam_momentum
    fastest = averages.momentum_decays.index(min(averages.momentum_decays))
    names = fan_ins(graph)

    def matrices(index: int | None) -> dict[tuple[str, int], Tensor]:
        if index is None:
            return _matrices(graph, {name: grads[name] for name in names})
        own = {name: state[name]["momenta"][index] for name in names}
        return _matrices(graph, own)

    past, recent = matrices(number), [matrices(None)]
    if fastest != number:
        recent.append(matrices(fastest))
    ahead = _matrices(
        graph, {name: look_ahead(grads[name], state[name], number) for name in names}
    )
    alike = _alike(ahead)
    gated = ([_stacked(item, keys) for item in (past, *recent)] for keys in alike)
    white: dict[tuple[str, int], Tensor] = {}
    for keys, gates in zip(alike, _gates(gated), strict=True):
        found = whiten(_stacked(ahead, keys), group_rows)
        for gate in gates:
            gate = gate.to(found.dtype)
            found = found.mul_(gate) if in_plain_eager() else found * gate
        if math.prod(found.shape[1:]) > SMALL and not torch.is_grad_enabled():
            found = ahead[keys[0]].copy_(found)  # to limit fragmentation
        sizes = [len(ahead[key]) for key in keys]
        white.update(zip(keys, found.split(sizes), strict=True))
    views, found = _matrix_views(graph), {}
    for name in names:
        shape = graph.shapes[name]
        if name in views:
            pieces = [
                (view, white[name, index].reshape(view.shape))
                for index, view in enumerate(views[name])
            ]
            found[name] = put_views(shape, pieces)
        else:
            found[name] = white[name, 0].reshape(shape)
    return found


def _matrices(graph: NeuralGraph, tensors: Tensors) -> dict[tuple[str, int], Tensor]:
    """Return the matrices of some parameters, each `[part, row, column]`."""
    views, found = _matrix_views(graph), {}
    for name, tensor in tensors.items():
        for index, view in enumerate(views.get(name, ())):
            piece = take_view(tensor, graph.shapes[name], view, lead=3)
            found[name, index] = piece.flatten(2)
        if name not in views:
            found[name, 0] = tensor.flatten(1)[None]
    return found


def _alike(matrices: Mapping[tuple[str, int], Tensor]) -> list[list[tuple[str, int]]]:
    """Return the keys of matrices that are whitened together: small ones of a shape."""
    alike: defaultdict[tuple[int, ...], list[tuple[str, int]]] = defaultdict(list)
    found = []
    for key, matrix in matrices.items():
        if math.prod(matrix.shape[1:]) > SMALL:
            found.append([key])
        else:
            alike[tuple(matrix.shape[1:])].append(key)
    return [*found, *alike.values()]


def _stacked(
    matrices: Mapping[tuple[str, int], Tensor], keys: Sequence[tuple[str, int]]
) -> Tensor:
    """Return matrices of one shape as one `[part, row, column]`; a large one as is."""
    first = matrices[keys[0]]
    if math.prod(first.shape[1:]) > SMALL:
        return first
    return torch.cat([matrices[key] for key in keys])


def _gates(stacks: Iterable[Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return, of each stack, gates of rows and of columns.

    Args:
        stacks: of each, the momentum that is whitened; then gradients and perhaps the
            momentum of the shortest memory: each `[part, row, column]`.

    Returns:
        For each stack `[part, row, 1]` and `[part, 1, column]`.
    """
    sums = [by_axis for stack in stacks for by_axis in _lines(stack)]
    flat = [torch.stack([item.flatten() for item in one]) for one in sums]
    is_alike = len({item.dtype for item in flat}) == 1
    gates: list[Tensor] = []
    for together in [flat] if is_alike else [[item] for item in flat]:
        then, *now = torch.cat(together, dim=1)
        largest = functools.reduce(torch.maximum, now)
        # TINY stays out of the numerator: smaller values become zero.
        found = ((64 * largest / (then + TINY)).clamp(max=1) + TINY).sqrt()
        gates += found.split([item.shape[1] for item in together])
    gates = [gate.view(one[0].shape) for gate, one in zip(gates, sums, strict=True)]
    return list(zip(gates[::2], gates[1::2], strict=True))


def _lines(stack: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return sums of squares along rows, then along columns, of each tensor."""
    by_row, by_column = [], []
    for item in stack:
        squares = widened(item).square()
        by_row.append(squares.sum(-1, keepdim=True))
        by_column.append(squares.sum(-2, keepdim=True))
    return by_row, by_column


@derived
def _matrix_views(graph: NeuralGraph) -> dict[str, tuple[View, ...]]:
    """Return, for parameters that hold several matrices, the view of each.

    Those that are one matrix, rows along the first axis, are left out.
    """
    blocks: defaultdict[str, list[WeightBlock]] = defaultdict(list)
    for block in graph.blocks:
        if not block.is_alias:
            blocks[block.parameter].append(block)
    return {
        name: tuple(block.view for block in found)
        for name, found in blocks.items()
        if len(graph.shapes[name]) >= 2
        and not _is_one_matrix(found, graph.shapes[name])
    }


def _is_one_matrix(blocks: list[WeightBlock], shape: tuple[int, ...]) -> bool:
    """Whether a parameter is one linear map, with its first axis as rows or columns.

    A projection that keeps a head axis of its own, as in JAX code, is one map and still
    has neither along its first axis.
    """
    if any(block.parts > 1 for block in blocks):
        # A norm's scale or a depthwise kernel has a row a part: one matrix.
        return all(block.view.shape[1:3] == (1, 1) for block in blocks)
    row = math.prod(shape[1:])
    return len({block.target for block in blocks}) == 1 and any(
        all(
            (block.view.shape[axis], block.view.strides[axis]) == (shape[0], row)
            for block in blocks
        )
        for axis in (1, 2)
    )
