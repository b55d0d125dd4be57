"""Neurons that meet: in sums, in products, along the axes of one tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from l2o.graph.neural_graph import TieKind

from .trace_log import Ids, TraceLog, axes_of, first_order
from .union_find import UnionFind


class Position:
    """How far a forward pass has run."""

    def __init__(self, *, repeats: bool = False) -> None:
        self.repeats = repeats
        """Whether the last weight was used before (a loop)."""
        self.last = "inputs"
        """Name of the last weight used."""


class NeuronJoins:
    """Joins neurons that meet, each pair of sets only once.

    Args:
        log: where the joins are recorded.
        position: how far the pass has run.
        known: joins of earlier passes, by key.
    """

    def __init__(
        self, log: TraceLog, position: Position, known: "NeuronJoins | None" = None
    ) -> None:
        self._log = log
        self._position = position
        self._joined: dict[object, Tensor] = (
            {} if known is None else dict(known._joined)
        )
        self._unions = UnionFind(log)

    def meet(self, kind: TieKind, first: Tensor, second: Tensor) -> Tensor:
        """Return the neurons of a sum or product of two planes on the same axes."""
        first, second = torch.broadcast_tensors(first, second)
        if torch.equal(first, second):
            return first
        pairs = (first + 1) * (self._log.size + 1) + second + 1
        distinct, rank = first_order(pairs.numpy())
        left = distinct // (self._log.size + 1) - 1
        right = distinct % (self._log.size + 1) - 1
        key = (kind, left.tobytes(), right.tobytes())
        is_some = distinct > 0
        is_new = key not in self._joined
        if is_new and self._position.repeats and self._unions.tied(first, second):
            return torch.maximum(first, second)
        if is_new:
            word = "sum" if kind == "residual" else "product"
            size = int(is_some.sum())
            fresh = np.full(len(distinct), -1)
            fresh[is_some] = self._log.add_group(
                f"{self._position.last} {word}", size
            ).numpy()
            for operand, ids in enumerate((left, right)):
                self._tie(kind, ids[ids >= 0], fresh[ids >= 0], operand)
            self._joined[key] = torch.from_numpy(fresh)
        return self._joined[key][torch.from_numpy(rank)].reshape(first.shape)

    def cross(self, kind: TieKind, first: Tensor, second: Tensor) -> Tensor:
        """Join two planes that share at least one axis.

        Where one varies along more axes than the other (the units of a head, and the
        head), the other's neurons stay where they are and tell the first's apart.
        """
        left, right = axes_of(first), axes_of(second)
        if left == right or (
            left & right and self._unions.tied(*torch.broadcast_tensors(first, second))
        ):
            return self.meet(kind, first, second)
        if not left > right:
            first, second = second, first
        self._log.freeze(second)
        if left > right or right > left:
            self._log.distinguish(first, left & right)
        else:
            self._log.freeze(first)
        return first

    def dot(self, first: Tensor, second: Tensor) -> None:
        """Tie the neurons of two planes that are multiplied and summed over."""
        first, second = torch.broadcast_tensors(first, second)
        both = ((first >= 0) & (second >= 0)).numpy()
        self._log.freeze(torch.where(torch.from_numpy(~both), first, -1))
        self._log.freeze(torch.where(torch.from_numpy(~both), second, -1))
        left, right = first.numpy()[both], second.numpy()[both]
        pairs, _ = first_order(left * (self._log.size + 1) + right)
        left, right = pairs // (self._log.size + 1), pairs % (self._log.size + 1)
        key = ("dot", left.tobytes(), right.tobytes())
        if key not in self._joined:
            self._joined[key] = first
            self._tie("dot", left, right, 0)

    def vector(
        self,
        plane: Tensor,
        axes: Sequence[int],
        kind: TieKind = "move",
        *,
        has_zeros: bool = False,
    ) -> Tensor | None:
        """Return a plane that varies along `axes` only, None if there is none.

        Neurons that take turns along the other axes (the sub-pixels of a pixel
        shuffle, the tokens of two towers, the terms of a sum) move into a new group.
        `has_zeros` says that entries without a neuron are zero.
        """
        others = sorted(axes_of(plane) - set(axes))
        if not others:
            return plane
        top = plane.amax(others, keepdim=True)
        if bool(((plane == top) | (plane < 0)).all()):
            return top
        kept = [axis for axis in range(plane.dim()) if axis not in others]
        rows = plane.permute(kept + others).reshape(top.numel(), -1).numpy()
        distinct = [np.unique(row[row >= 0]) for row in rows]
        sizes = {len(ids) for ids in distinct}
        everyone = np.concatenate(distinct)
        pairs = zip(distinct, rows, strict=True)
        pattern = [np.searchsorted(ids, row) for ids, row in pairs]
        alike = len(sizes) == 1 and len(np.unique(everyone)) == len(everyone)
        alike = alike and all((p == pattern[0]).all() for p in pattern)
        holes = rows < 0
        if not alike or (holes != (holes[0] if has_zeros else False)).any():
            self._log.freeze(plane)
            return None
        turns = np.stack(distinct, axis=1)
        key = (kind, turns.tobytes(), len(turns))
        if key not in self._joined:
            word = "moved" if kind == "move" else "sum"
            target = self._log.add_group(f"{self._position.last} {word}", top.numel())
            for operand, ids in enumerate(turns):
                self._tie(kind, ids, target.numpy(), operand)
            self._joined[key] = target
        return self._joined[key].reshape(top.shape)

    def _tie(self, kind: TieKind, source: Ids, target: Ids, operand: int) -> None:
        is_plain = len(np.unique(source)) == len(source)
        is_plain &= len(np.unique(target)) == len(target)
        self._log.join(kind if is_plain else None, source, target, operand)
