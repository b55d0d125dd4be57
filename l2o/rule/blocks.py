"""Blocks of a stack, small enough for a cache, and sums that come block by block."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from l2o.nets.fast_ops import in_plain_eager

_BLOCK_ENTRIES = 2**16
"""Entries that are computed at a time on a CPU without autograd: what one operation
leaves is still in the cache when the next one reads it, and little memory is needed."""


class Lines(NamedTuple):
    """Some rows, or some columns, of all matrices of a stack."""

    axis: int
    """-2 for rows, -1 for columns."""
    start: int
    length: int


Block: TypeAlias = Lines | None
"""Which entries; None for all."""


def blocks_of(values: Tensor, size: int = _BLOCK_ENTRIES) -> list[Block]:
    """Cut `[matrix, row, column]` along the axis that lies outermost in memory.

    Args:
        values: entries of a stack; whole on an accelerator and where autograd, the
            compiler or a transform of functorch is at work.
        size: about how many entries a block has.
    """
    if values.numel() <= size or values.device.type != "cpu" or not in_plain_eager():
        return [None]
    axis = -2 if values.stride(-2) >= values.stride(-1) else -1
    length = values.shape[axis]
    step = max(1, size * length // values.numel())
    return [
        Lines(axis, start, min(step, length - start))
        for start in range(0, length, step)
    ]


def cut(values: Tensor, block: Block) -> Tensor:
    """Return the entries of a block, a view.

    Args:
        values: `[*, matrix, row, column]`.
        block: which of them.
    """
    return values if block is None else values.narrow(*block)


class Room:
    """Memory for passing results, one at a time.

    Where it may not be used again, as with autograd, results are new tensors.
    """

    def __init__(self) -> None:
        self._tensor: Tensor | None = None

    def like(self, values: Tensor) -> Tensor:
        """Return uninitialised memory for a tensor of this shape, type and layout."""
        found = self._tensor
        if found is None or found.shape != values.shape or found.dtype != values.dtype:
            found = self._tensor = torch.empty_like(values)
        return found

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Return `left * right`, which lasts until the next result is asked for."""
        return torch.mul(left, right, out=self.like(left) if in_plain_eager() else None)


class SumsOfLines:
    """Sums along rows and along columns, of blocks that come one after another.

    Args:
        shape: numbers of matrices, rows and columns of the whole.
        has_columns: whether columns are summed, too.
    """

    def __init__(self, shape: Sequence[int], *, has_columns: bool) -> None:
        self._lengths = shape[-2], shape[-1]
        self._parts: tuple[list[Tensor], list[Tensor]] = [], []
        self._axes = (-1, -2) if has_columns else (-1,)

    def add(self, values: Iterable[Tensor]) -> None:
        """Take the same block of several fields.

        Args:
            values: one `[matrix, row, column]` per field; each is read before the next
                one is asked for.
        """
        sums = [[item.sum(axis) for axis in self._axes] for item in values]
        for own, length, parts in zip(
            zip(*sums, strict=True), self._lengths, self._parts, strict=False
        ):
            new = torch.stack(list(own))
            if parts and new.shape[-1] == length:
                parts[0] += new
            else:
                parts.append(new)

    def by_row(self) -> Tensor:
        """Return `[field, matrix, row]`."""
        return _joined(self._parts[0])

    def by_column(self) -> Tensor | None:
        """Return `[field, matrix, column]`; None where they are not summed."""
        return _joined(self._parts[1]) if len(self._axes) > 1 else None


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def row_squares(stacks: Sequence[Tensor]) -> Tensor:
    """Return the sum of squares of each row, `[row of all stacks]`.

    Args:
        stacks: `[matrix, row, column]` each.
    """
    if torch.is_grad_enabled():  # the norm has no second derivative at zero
        return torch.cat([item.square().sum(-1).flatten() for item in stacks])
    return torch.cat([_row_norms(item).flatten() for item in stacks]).square()


def _row_norms(values: Tensor) -> Tensor:
    """Return the norm of each row, `[matrix, row]`."""
    blocks = blocks_of(values)
    if values.stride(-1) == 1 or len(blocks) == 1:
        return torch.linalg.vector_norm(values, dim=-1)
    room = Room()  # the norm is slow where rows are not contiguous
    found = SumsOfLines(values.shape, has_columns=False)
    for block in blocks:
        part = cut(values, block)
        found.add([room.product(part, part)])
    return found.by_row()[0].sqrt()
