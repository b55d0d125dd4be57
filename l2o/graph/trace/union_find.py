"""Which neurons move together, as a union-find that grows with the log."""

import numpy as np
from torch import Tensor

from .trace_log import Ids, TraceLog, Use


class UnionFind:
    """Connected components of neurons under the joins and diagonal blocks so far."""

    def __init__(self, log: TraceLog) -> None:
        self._log = log
        self._root = np.arange(0)
        self._joins = 0
        self._uses = 0

    def roots(self) -> Ids:
        """Return for every neuron the first neuron of its component."""
        log = self._log
        pairs = [(j.source, j.target) for j in log.joins[self._joins :]]
        pairs += [pair for use in log.uses[self._uses :] for pair in diagonal(use)]
        self._joins, self._uses = len(log.joins), len(log.uses)
        grown = np.arange(len(self._root), log.size)
        self._root = np.concatenate([self._root, grown])
        if pairs:
            source = np.concatenate([pair[0] for pair in pairs])
            target = np.concatenate([pair[1] for pair in pairs])
            self._root = merge(self._root, source, target)
        return self._root

    def tied(self, first: Tensor, second: Tensor) -> bool:
        """Whether each pair of neurons belongs together already."""
        roots = self.roots()
        left, right = first.numpy(), second.numpy()
        both = (left >= 0) & (right >= 0)
        return bool((roots[left[both]] == roots[right[both]]).all())


def merge(root: Ids, source: Ids, target: Ids) -> Ids:
    """Return the roots after joining each source to its target."""
    root = root.copy()
    while True:
        left, right = root[source], root[target]
        low = np.minimum(left, right)
        before = root.copy()
        np.minimum.at(root, left, low)
        np.minimum.at(root, right, low)
        while not (root[root] == root).all():
            root = root[root]
        if (root == before).all():
            return root


def diagonal(use: Use) -> list[tuple[Ids, Ids]]:
    """Return the neurons that a block of one-neuron parts joins."""
    if use.source is None or use.codes.shape[2] != 1 or use.codes.shape[0] == 1:
        return []
    return [(np.repeat(use.source, use.codes.shape[1]), use.target)]
