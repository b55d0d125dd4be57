"""What a traced forward pass records of neurons: their groups and their joins."""

import bisect
import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l2o.graph.neural_graph import Operation, TieKind

from .labels import Codes, varying

Ids = NDArray[np.int64]


@dataclass(slots=True)
class DraftGroup:
    """A neuron group under construction."""

    name: str
    start: int
    """Number of its first neuron."""
    size: int
    is_input: bool = False
    """Whether its neurons are given: inputs, positions, rows of a table."""
    operations: list[Operation] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Parameter entries that were seen on edges or on neurons."""

    parameter: int
    codes: Codes
    """Affine: axes (part, target, source, *cells), or (neuron, *cells)."""
    target: Ids
    source: Ids | None = None
    """None for entries of neurons."""
    operation: Operation | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """Neurons joined one to one, as a tie of the graph or only to move together."""

    kind: TieKind | None
    source: Ids
    target: Ids
    code: int
    """Tells operations, and the operands of one operation, apart."""


@dataclass(frozen=True, slots=True)
class PairedCodes:
    """Entries of `other` that meet those of `main` in a product or a sum."""

    main: Codes
    other: Codes


class TraceLog:
    """Collects neurons and all that limits how they may be exchanged."""

    def __init__(self, bases: Sequence[int]) -> None:
        self.bases = list(bases)
        self._bases = np.array(bases, dtype=np.int64)
        self.groups: list[DraftGroup] = []
        self.size = 0
        """Number of neurons so far."""
        self.uses: list[Use] = []
        self.joins: list[Join] = []
        self.pairs: list[PairedCodes] = []
        self.unplaced: dict[int, str] = {}
        """Parameters whose place is in doubt, each with the reason."""
        self.shared: dict[int, str] = {}
        """Parameters of which an entry serves several neurons, with the reason."""
        self.rigid: set[int] = set()
        """Parameters whose entries are told apart, so that their neurons may not
        move."""
        self.colours = np.zeros(1024, dtype=np.uint64)
        """One number per neuron; only equal ones may change places."""
        self.frozen = np.zeros(1024, dtype=bool)
        self.ends: set[int] = set()
        """Neurons that are outputs of the network."""
        self._starts: Ids | None = None
        """First neuron of every group; None after a group was added."""
        self._names: set[str] = set()
        self._known: set[object] = set()
        self._serial = 0

    def copy(self) -> "TraceLog":
        """Return a log that can go on without changing this one."""
        other = copy.copy(self)
        other.groups = [
            replace(group, operations=list(group.operations)) for group in self.groups
        ]
        for name in ("uses", "joins", "pairs", "unplaced", "shared", "rigid", "ends"):
            setattr(other, name, getattr(self, name).copy())
        other.colours, other.frozen = self.colours.copy(), self.frozen.copy()
        other._names, other._known = set(self._names), set(self._known)
        return other

    def add_group(self, name: str, size: int, *, frozen: bool = False) -> Tensor:
        """Add a group; return the numbers of its neurons."""
        self._starts = None
        label = name
        for count in itertools.count(2):
            if label not in self._names:
                break
            label = f"{name} #{count}"
        self._names.add(label)
        start, self.size = self.size, self.size + size
        self.groups.append(DraftGroup(label, start, size, is_input=frozen))
        if self.size > len(self.frozen):
            room = max(self.size, 2 * len(self.frozen)) - len(self.frozen)
            self.colours = np.pad(self.colours, (0, room))
            self.frozen = np.pad(self.frozen, (0, room))
        self.frozen[start : self.size] = frozen
        return torch.arange(start, self.size)

    def group_of(self, ids: Ids) -> Ids:
        """Return the group of every neuron."""
        if self._starts is None:
            self._starts = np.array([group.start for group in self.groups])
        return np.searchsorted(self._starts, ids, side="right") - 1

    def parameters_of(self, codes: Codes) -> list[int]:
        """Return the parameters that the codes belong to."""
        if codes.dense is None:
            return [bisect.bisect_right(self.bases, codes.offset) - 1]
        numbers = codes.dense.numpy().ravel()
        numbers = numbers[numbers >= 0]
        owners = np.searchsorted(self._bases, numbers, side="right") - 1
        return np.unique(owners).tolist()

    def owners_of(self, codes: Ids) -> Ids:
        """Return the parameter that each code belongs to."""
        return np.searchsorted(self._bases, codes, side="right") - 1

    def freeze(self, plane: Tensor) -> None:
        """Forbid neurons to change places."""
        ids = plane.numpy().ravel()
        self.frozen[ids[ids >= 0]] = True

    def unplace(self, codes: Codes, reason: str) -> None:
        """Note that the place of parameters is in doubt."""
        for parameter in self.parameters_of(codes):
            self.unplaced.setdefault(parameter, reason)

    def share(self, codes: Codes, reason: str) -> None:
        """Note that single entries serve several neurons."""
        for parameter in self.parameters_of(codes):
            self.shared.setdefault(parameter, reason)

    def freeze_ends(self, codes: Codes) -> None:
        """Forbid the neurons of a parameter to change places."""
        self.rigid.update(self.parameters_of(codes))

    def distinguish(self, plane: Tensor, axes: Iterable[int] = ()) -> None:
        """Tell neurons apart by where they lie along some axes.

        Two neurons stay exchangeable only if they lie at the same indices. No axes
        tell the neurons of the plane apart from all others.
        """
        serial = self.next_serial()
        shape = plane.shape
        where = torch.zeros((1,) * plane.dim(), dtype=torch.int64)
        for axis in axes:
            size = shape[axis]
            line = torch.arange(size).view(
                [-1 if other == axis else 1 for other in range(plane.dim())]
            )
            where = where * size + line
        count = int(where.max()) + 1
        pairs = (plane * count + where.expand(shape)).numpy().ravel()
        pairs = np.unique(pairs[plane.numpy().ravel() >= 0])
        labels = mix(np.uint64(serial), (pairs % count).astype(np.uint64))
        np.add.at(self.colours, pairs // count, labels)

    def join(
        self, kind: TieKind | None, source: Ids, target: Ids, operand: int
    ) -> None:
        """Join neurons one to one."""
        self.joins.append(Join(kind, source, target, operand))

    def use(self, use: Use) -> None:
        """Record where parameter entries lie."""
        source = b"" if use.source is None else use.source.tobytes()
        codes = use.codes
        key = (codes.offset, codes.strides, codes.shape, use.target.tobytes(), source)
        if key not in self._known:
            self._known.add(key)
            self.uses.append(use)

    def next_serial(self) -> int:
        """Return a number that no other operation has."""
        self._serial += 1
        return self._serial

    def note(self, planes: Iterable[Tensor], operation: Operation) -> None:
        """Record an operation on the values of neurons."""
        for plane in planes:
            ids = plane.numpy().ravel()
            groups = self.group_of(ids[ids >= 0])
            if len(groups) and groups[0] == groups.max() == groups.min():
                groups = groups[:1]  # most planes: no sorting
            for group in np.unique(groups):
                self.groups[group].operations.append(operation)


def mix(*words: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Return well-spread 64-bit numbers that depend on all of `words`."""
    total = np.zeros(1, dtype=np.uint64)  # arrays wrap around without a warning
    for word in words:
        total = (total ^ word) + _WEYL
        total = (total ^ (total >> _SHIFTS[0])) * _FACTORS[0]
        total = (total ^ (total >> _SHIFTS[1])) * _FACTORS[1]
        total = total ^ (total >> _SHIFTS[2])
    return total


# The steps of splitmix64.
_WEYL = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def first_order(keys: Ids) -> tuple[Ids, Ids]:
    """Return the distinct keys by first occurrence, and each key's rank among them."""
    if keys.ndim == 1 and (keys[1:] > keys[:-1]).all():
        return keys, np.arange(len(keys))
    distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[inverse.reshape(keys.shape)]


def axes_of(plane: Tensor) -> set[int]:
    """Return the neuron axes of a plane as a set."""
    return set(varying(plane))
