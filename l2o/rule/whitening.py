"""Whitened momenta: matrices with all singular values near one another."""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from l2o.graph import NeuralGraph, View, WeightBlock, derived
from l2o.graph.layout import put_views, take_view
from l2o.graph.linear_maps import fan_ins
from l2o.nets.fast_ops import in_plain_eager, new_empty, product

from .state import ADAM_DECAY, TINY, Averages, ParameterState, State, Tensors, widened

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that pushes singular values towards 1 (Jordan, 2024)."""
WHITENING_STEPS = 5

GROUP_ROWS = 1024
"""Rows that take all steps but the last by themselves. A square matrix whitened whole
takes time in proportion to its width, an entry; in groups, a fifth of that."""

_BLOCK = 128
"""Least rows of a block of a symmetric product."""
_MOST_BLOCKS = 8

_SMALL = 2**18
"""Matrices of at most this many entries are whitened together, if alike."""


def whiten(matrix: Tensor, group_rows: int = GROUP_ROWS) -> Tensor:
    """Return the matrix with its singular values near one another, at unit scale.

    A few Newton-Schulz steps; rows and columns may be permuted before or after.

    Args:
        matrix: `[*batch, row, column]`.
        group_rows: most rows, of the shorter side, that are whitened together. Where
            there are more, all steps but the last are taken in groups of one size: a
            group has every k-th row in the order of their norms, so that no numbering
            matters and the groups are alike.

    Returns:
        As `matrix`, each with a root mean square of 1; zero where it is zero.

    Reference:
        Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/. We fix the root mean
        square instead of the largest singular value.
    """
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    white = matrix.mT if is_tall else matrix
    num_groups = -(-white.shape[-2] // group_rows)
    if num_groups > 1:
        white = _pushed(_whitened_by_groups(white, num_groups), 1)
    else:
        white = _pushed(_normed(white), WHITENING_STEPS)
    white = white.mT if is_tall else white
    return white / (white.square().mean((-2, -1), keepdim=True) + TINY).sqrt()


def orthogonalize(
    matrix: Tensor,
    least: Tensor,
    *,
    steps: int = WHITENING_STEPS,
    group_rows: int = GROUP_ROWS,
) -> tuple[Tensor, Tensor]:
    """Return matrices with singular values near 1, and the norms that they had.

    Args:
        matrix: `[matrix, row, column]`, ours to write over; rows and columns of zeros
            stay zeros.
        least: `[matrix, 1, 1]`, a norm. A matrix with a smaller one is taken as a part
            of it, so that its small singular values are not pushed as far.
        steps: how often singular values are pushed.
        group_rows: as for `whiten`.

    Returns:
        As `matrix`; and `[matrix, 1, 1]`, their norms before.
    """
    if in_plain_eager():
        norm = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    else:  # with a second derivative at zero
        norm = (matrix.square().sum((-2, -1), keepdim=True) + TINY).sqrt()
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    wide = matrix.mT if is_tall else matrix
    num_groups = -(-wide.shape[-2] // group_rows)
    if num_groups > 1:
        grouped = _whitened_by_groups(wide, num_groups, steps - 1, least)
        white = _pushed(grouped, 1)
    else:
        room = wide if in_plain_eager() else None
        wide = torch.div(wide, torch.maximum(norm, least), out=room)
        white = _pushed_together(wide, steps)
    return white.mT if is_tall else white, norm


def _pushed_together(wide: Tensor, steps: int) -> Tensor:
    """Do as `_pushed` does, with three operations per step where matrices are small."""
    is_large = math.prod(wide.shape[-2:]) > _SMALL
    if is_large and wide.device.type == "cpu":
        return _pushed(wide, steps)
    first, second, third = _COEFFICIENTS
    for _ in range(steps):
        gram = wide @ wide.mT
        factor = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        wide = torch.baddbmm(wide, factor, wide, beta=first)
    return wide


def _normed(wide: Tensor, least: Tensor | None = None) -> Tensor:
    """Return a matrix over the root of its sum of squares, or over a larger norm."""
    norm = (wide.square().sum((-2, -1), keepdim=True) + TINY).sqrt()
    return wide / (norm if least is None else torch.maximum(norm, least))


def _pushed(wide: Tensor, steps: int) -> Tensor:
    """Return a wide matrix after some steps, which push its singular values towards 1.

    For long matrices steps are taken two or three at a time: one product of rows each.
    """
    rows, columns = wide.shape[-2:]
    is_long = rows * columns > _SMALL and columns > 2 * rows and steps > 1
    for some in (steps // 2, steps - steps // 2) if is_long else [1] * steps:
        gram = symmetric_product(wide, wide)
        wide = product(_polynomial(gram, some), wide)
    return wide


def _whitened_by_groups(
    wide: Tensor,
    num_groups: int,
    steps: int = WHITENING_STEPS - 1,
    least: Tensor | None = None,
) -> Tensor:
    """Return a wide matrix with rows at right angles to others of their group.

    Its norm is at most what `_pushed` makes of 1: groups at right angles to one another
    have that of each; equal ones, this many times as much before it is divided out.
    """
    if wide.ndim > 2:
        limits = [None] * len(wide) if least is None else list(least)
        pairs = zip(wide, limits, strict=True)
        return torch.stack(
            [_whitened_by_groups(one, num_groups, steps, limit) for one, limit in pairs]
        )
    if least is not None:
        least = least / math.sqrt(num_groups)
    order = wide.square().sum(-1).argsort(descending=True)
    groups = [order[start::num_groups] for start in range(num_groups)]
    white = torch.cat([_pushed(_normed(wide[group], least), steps) for group in groups])
    return white[torch.cat(groups).argsort()] / math.sqrt(num_groups)


def _polynomial(gram: Tensor, steps: int) -> Tensor:
    """Return what some steps multiply a matrix by, from its products of rows.

    The steps are polynomials of one symmetric matrix, so they commute, and only the
    last product needs the long rows.

    Args:
        gram: `[*batch, row, row]`.
        steps: how many to take; each loses some digits of the small singular values.
    """
    first, second, third = _COEFFICIENTS
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    total = None
    for step in range(steps):
        square = symmetric_product(gram, gram)
        factor = first * unit + second * gram + third * square
        total = factor if total is None else symmetric_product(factor, total)
        if step < steps - 1:
            gram = symmetric_product(symmetric_product(factor, gram), factor)
    assert total is not None
    return total


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right.mT`, known to be symmetric; of large ones half is mirrored.

    Args:
        left: `[*batch, n, column]`.
        right: `[*batch, n, column]`, the same, or a matrix that commutes with it where
            both are symmetric.

    Returns:
        `[*batch, n, n]`.
    """
    size = left.shape[-2]
    count = min(size // _BLOCK, _MOST_BLOCKS)
    if count < 2:
        return product(left, right.mT)
    ends = [size * index // count for index in range(count + 1)]
    spans = list(itertools.pairwise(ends))
    upper = [product(left[..., a:b, :], right[..., a:, :].mT) for a, b in spans]
    rows = []
    for index, (a, b) in enumerate(spans):
        mirrored = [
            row[..., a - start : b - start].mT
            for row, (start, _) in zip(upper[:index], spans, strict=False)
        ]
        rows.append(torch.cat([*mirrored, upper[index]], dim=-1))
    return torch.cat(rows, dim=-2)


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
        if math.prod(found.shape[1:]) > _SMALL and not torch.is_grad_enabled():
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
        if math.prod(matrix.shape[1:]) > _SMALL:
            found.append([key])
        else:
            alike[tuple(matrix.shape[1:])].append(key)
    return [*found, *alike.values()]


def _stacked(
    matrices: Mapping[tuple[str, int], Tensor], keys: Sequence[tuple[str, int]]
) -> Tensor:
    """Return matrices of one shape as one `[part, row, column]`; a large one as is."""
    first = matrices[keys[0]]
    if math.prod(first.shape[1:]) > _SMALL:
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
