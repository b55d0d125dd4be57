"""Newton-Schulz steps: matrices with all singular values near one another."""

import itertools
import math

import torch
from torch import Tensor

from l2o.nets.fast_ops import in_plain_eager, multiplied, product, product_and

from .state import TINY

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that pushes singular values towards 1 (Jordan, 2024)."""
WHITENING_STEPS = 5

GROUP_ROWS = 1024
"""Rows that take all steps but the last by themselves. A square matrix whitened whole
takes time in proportion to its width, an entry; in groups, a fifth of that."""

_BLOCK = 128
"""Least rows of a block of a symmetric product."""
_MOST_BLOCKS = 8
_FEWEST_ROWS = 512
"""Symmetric products with fewer rows are computed whole, and on an accelerator all."""

LONG = 1.5
"""Above so many columns per row, steps are taken on the products of rows."""

_PIECE_COLUMNS = 1024
"""Columns of a product that is written piece by piece."""

SMALL = 2**18
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
    wide = matrix.mT if is_tall else matrix
    white = wide.reshape(-1, *wide.shape[-2:])
    num_groups = -(-white.shape[-2] // group_rows)
    if num_groups > 1:
        white = _pushed(_whitened_by_groups(white, num_groups), 1)
    else:
        white = _pushed(_normed(white), WHITENING_STEPS)
    white = white.view(wide.shape)
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
        matrix: `[matrix, row, column]`, written over where that is allowed; rows and
            columns of zeros stay zeros.
        least: `[matrix, 1, 1]`, a norm. A matrix with a smaller one is taken as a part
            of it, so that its small singular values are not pushed as far.
        steps: how often singular values are pushed.
        group_rows: as for `whiten`.

    Returns:
        As `matrix`, which it is itself where a large one may be written over; and
        `[matrix, 1, 1]`, their norms before.
    """
    if in_plain_eager():
        norm = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    else:  # with a second derivative at zero
        norm = (matrix.square().sum((-2, -1), keepdim=True) + TINY).sqrt()
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    wide = matrix.mT if is_tall else matrix
    room = wide if in_plain_eager() else None
    num_groups = -(-wide.shape[-2] // group_rows)
    if num_groups > 1:
        grouped = _whitened_by_groups(wide, num_groups, steps - 1, least, room)
        white = _pushed(grouped, 1)
    else:
        wide = torch.div(wide, torch.maximum(norm, least), out=room)
        white = _pushed(wide, steps)
    return white.mT if is_tall else white, norm


def _normed(wide: Tensor, least: Tensor | None = None) -> Tensor:
    """Return a matrix over the root of its sum of squares, or over a larger norm."""
    norm = (wide.square().sum((-2, -1), keepdim=True) + TINY).sqrt()
    return wide / (norm if least is None else torch.maximum(norm, least))


def _pushed(wide: Tensor, steps: int) -> Tensor:
    """Return wide matrices after steps that push their singular values towards 1.

    A step multiplies a matrix by a polynomial of its products of rows. Those of all
    steps are polynomials of the first one, so they commute, and of long matrices the
    long rows are read twice only.

    Args:
        wide: `[matrix, row, column]`, written over where that is allowed.
        steps: how many.
    """
    rows, columns = wide.shape[-2:]
    # On an accelerator small matrices are bound by the number of operations.
    may_be_long = wide.device.type == "cpu" or rows * columns > SMALL
    if columns > LONG * rows and steps > 1 and may_be_long:
        gram = symmetric_product(wide, wide)
        return _multiplied(_polynomial(gram, steps), wide)
    first, second, third = _COEFFICIENTS
    for _ in range(steps):
        gram = symmetric_product(wide, wide)
        factor = _symmetric_and(gram, gram, gram, beta=second, alpha=third)
        wide = _multiplied(factor, wide, first)
    return wide


def _multiplied(factor: Tensor, wide: Tensor, share: float = 0.0) -> Tensor:
    """Return `factor @ wide + share * wide`, over `wide` where that is allowed.

    It is written piece by piece, some columns each, so that no second matrix of that
    size is needed.
    """

    def of(part: Tensor) -> Tensor:
        if not share:
            return product(factor, part)
        return product_and(part, factor, part, beta=share)

    is_small = math.prod(wide.shape[-2:]) <= SMALL or wide.device.type != "cpu"
    if is_small or not in_plain_eager():
        return of(wide)
    for part in wide.split(_PIECE_COLUMNS, dim=-1):
        part.copy_(of(part))
    return wide


def _whitened_by_groups(
    wide: Tensor,
    num_groups: int,
    steps: int = WHITENING_STEPS - 1,
    least: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return wide matrices with rows at right angles to others of their group.

    Their norm is at most what `_pushed` makes of 1: groups at right angles to one
    another have that of each; equal ones, this many times as much before it is divided
    out.

    Args:
        wide: `[matrix, row, column]`.
        num_groups: number of groups.
        steps: how often singular values are pushed.
        least: `[matrix, 1, 1]`, as for `orthogonalize`.
        out: what is written and returned, perhaps `wide` itself; None for a new tensor.
    """
    root = math.sqrt(num_groups)
    found = []
    for place, matrix in enumerate(wide):
        norm = None if least is None else least[place] / root
        order = matrix.square().sum(-1).argsort(descending=True)
        groups = [order[start::num_groups] for start in range(num_groups)]
        white = (
            _pushed(_normed(matrix[group], norm)[None], steps)[0] / root
            for group in groups
        )
        if out is None:
            found.append(torch.cat(list(white))[torch.cat(groups).argsort()])
            continue
        for group, item in zip(groups, white, strict=True):
            out[place, group] = item
    return torch.stack(found) if out is None else out


def _polynomial(gram: Tensor, steps: int) -> Tensor:
    """Return what some steps multiply matrices by, from their products of rows.

    Args:
        gram: `[matrix, row, row]`.
        steps: how many to take.
    """
    first, second, third = _COEFFICIENTS
    total = None
    for step in range(steps):  # each multiplies by `first` times the unit plus `factor`
        factor = _symmetric_and(gram, gram, gram, beta=second, alpha=third)
        if total is None:
            unit = torch.eye(len(gram[0]), dtype=gram.dtype, device=gram.device)
            total = torch.add(factor, unit, alpha=first)
        else:
            total = _symmetric_and(total, factor, total, beta=first)
        if step < steps - 1:
            half = _symmetric_and(gram, factor, gram, beta=first)
            gram = _symmetric_and(half, half, factor, beta=first)
    assert total is not None
    return total


def _symmetric_and(
    base: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float = 1.0
) -> Tensor:
    """Return `beta * base + alpha * left @ right`, of symmetric matrices that commute.

    Args:
        base: `[matrix, row, row]`; so are the others.
        left: one factor.
        right: the other.
        beta: factor of the base.
        alpha: factor of the product.
    """
    if not _is_mirrored(base):
        return product_and(base, left, right, beta=beta, alpha=alpha)
    found = symmetric_product(left, right)
    if alpha != 1:
        found = multiplied(found, alpha)
    if in_plain_eager():
        return found.add_(base, alpha=beta)
    return torch.add(found, base, alpha=beta)


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
    if not _is_mirrored(left):
        return product(left, right.mT)
    count = min(size // _BLOCK, _MOST_BLOCKS)
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


def _is_mirrored(matrix: Tensor) -> bool:
    """Return whether half of a symmetric product with so many rows is mirrored."""
    return matrix.shape[-2] >= _FEWEST_ROWS and matrix.device.type == "cpu"
