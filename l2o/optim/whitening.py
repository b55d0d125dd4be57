"""Whitened momenta: matrices with all singular values near one another."""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from l2o.graph import NeuralGraph, View, WeightBlock
from l2o.graph.layout import put_views, take_view
from l2o.graph.maps import fan_ins
from l2o.nets.products import is_alone, new_empty, product

from .state import ADAM_MOMENTUM, MOMENTUM_DECAYS, TINY, ParameterState, State

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that pushes singular values towards 1 (Jordan, 2024)."""
_STEPS = 5
_LONG_STEPS = (2, 3)
"""How the steps are divided for long matrices: in each part, one product of rows."""

_BLOCK = 128
"""Least rows of a block of a symmetric product."""
_MOST_BLOCKS = 8

_SMALL = 2**18
"""Matrices of at most so many entries are whitened together with others like them."""


def whiten(matrix: Tensor) -> Tensor:
    """Return the matrix with its singular values near one another, at unit scale.

    A few Newton-Schulz steps; rows and columns may be permuted before or after.

    Args:
        matrix: `[*batch, row, column]`.

    Returns:
        As `matrix`, each with a root mean square of 1; zero where it is zero.

    Reference:
        Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/. We fix the root mean
        square instead of the largest singular value.
    """
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    white = matrix.mT if is_tall else matrix
    white = white / (white.square().sum((-2, -1), keepdim=True) + TINY).sqrt()
    rows, columns = white.shape[-2:]
    is_long = rows * columns > _SMALL and columns > 2 * rows
    for steps in _LONG_STEPS if is_long else [1] * _STEPS:
        gram = symmetric_product(white, white)
        white = product(_polynomial(gram, steps), white)
    white = white.mT if is_tall else white
    return white / (white.square().mean((-2, -1), keepdim=True) + TINY).sqrt()


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


def look_ahead(grad: Tensor, state: ParameterState) -> Tensor:
    """Return Nesterov's look ahead on Adam's momentum.

    Args:
        grad: `[*shape]`.
        state: after this gradient.
    """
    decay = MOMENTUM_DECAYS[ADAM_MOMENTUM]
    momentum = state["momenta"][ADAM_MOMENTUM].to(grad.dtype)  # it may be narrow
    out = new_empty(grad, grad.shape) if is_alone() else None
    return torch.lerp(momentum, grad, 1 - decay, out=out)


def whiten_momenta(
    graph: NeuralGraph, grads: Mapping[str, Tensor], state: State
) -> dict[str, Tensor]:
    """Return the whitened look ahead of every parameter that is a linear map.

    A matrix is one linear map: rows and columns may be permuted, each alike for all
    entries. So packed projections are whitened one by one, and the parts of a grouped
    convolution too; otherwise renumbering the neurons of one part would change all.

    Args:
        graph: the neural graph of the parameters.
        grads: name to gradient, for every parameter of the graph.
        state: name to state, after these gradients.

    Returns:
        Name to `[*shape]`, for the parameters that `fan_ins` names.
    """
    views = _matrix_views(graph)
    matrices: dict[tuple[str, int], Tensor] = {}
    for name in fan_ins(graph):
        shape = graph.shapes[name]
        ahead = look_ahead(grads[name], state[name])
        for index, view in enumerate(views.get(name, ())):
            piece = take_view(ahead, shape, view, lead=3).flatten(2)
            matrices[name, index] = piece
        if name not in views:
            matrices[name, 0] = ahead.flatten(1)[None]
    white = _whiten_all(matrices)
    found = {}
    for name in fan_ins(graph):
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


def _whiten_all(
    matrices: Mapping[tuple[str, int], Tensor],
) -> dict[tuple[str, int], Tensor]:
    """Whiten each `[part, row, column]`; small ones of one shape together.

    Args:
        matrices: tensors that nobody else needs; without autograd large ones are
            written over, lest new ones lie scattered between what is freed.
    """
    alike: defaultdict[tuple[int, ...], list[tuple[str, int]]] = defaultdict(list)
    white = {}
    for key, matrix in matrices.items():
        if math.prod(matrix.shape[1:]) > _SMALL:
            found = whiten(matrix)
            white[key] = found if torch.is_grad_enabled() else matrix.copy_(found)
        else:
            alike[tuple(matrix.shape[1:])].append(key)
    for keys in alike.values():
        sizes = [len(matrices[key]) for key in keys]
        joined = whiten(torch.cat([matrices[key] for key in keys]))
        white.update(zip(keys, joined.split(sizes), strict=True))
    return white


def _matrix_views(graph: NeuralGraph) -> dict[str, tuple[View, ...]]:
    """Return, for parameters that hold several matrices, the view of each.

    Those that are one matrix, rows along the first axis, are left out.
    """
    key = "matrix views"
    if key not in graph.derived:
        blocks: defaultdict[str, list[WeightBlock]] = defaultdict(list)
        for block in graph.blocks:
            if not block.is_alias:
                blocks[block.parameter].append(block)
        graph.derived[key] = {
            name: tuple(block.view for block in found)
            for name, found in blocks.items()
            if len(graph.shapes[name]) >= 2
            and not _is_one_matrix(found, graph.shapes[name])
        }
    return graph.derived[key]


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
