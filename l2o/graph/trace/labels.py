"""What a tensor of the traced network holds: neurons, parameter entries, or neither.

Labels belong to storages, not to tensor objects: a view, however it was made, finds
its labels by its place in memory, and a write through a view reaches every other view.

A *plane* is an integer tensor that broadcasts to the labelled tensor and holds the
neuron of every entry, -1 for none. It has size one along every axis on which the
neuron does not change, so the axes on which it varies are the neuron axes. A tensor
may have several planes: the product of queries and keys over the positions of a
sequence has one of rows and one of columns.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Geometry = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class Codes:
    """Which parameter entries a tensor holds, as numbers that run over all parameters.

    Either affine in the tensor's indices or dense.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    offset: int = 0
    dense: Tensor | None = None
    """Codes that broadcast to `shape`; -1 for no entry. None if affine."""
    is_summary: bool = False
    """Whether an entry stands for all that were reduced into it (a norm of a row)."""

    def tensor(self) -> Tensor:
        """Return the codes, of size one along every axis where they do not change."""
        if self.dense is not None:
            return compact(self.dense)
        total = torch.full((1,) * len(self.shape), self.offset)
        for axis, (size, step) in enumerate(zip(self.shape, self.strides, strict=True)):
            if step and size > 1:
                line = torch.arange(size) * step
                total = total + line.view(_along(axis, len(self.shape)))
        return total

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the codes change."""
        if self.dense is not None:
            return varying(compact(self.dense))
        pairs = enumerate(zip(self.shape, self.strides, strict=True))
        return tuple(axis for axis, (size, step) in pairs if size > 1 and step)

    def affine(self) -> "Codes | None":
        """Return the same codes in affine form, None if they have none."""
        if self.dense is None:
            return self
        found = fit(self.tensor())
        if found is None:
            return None
        return dataclasses.replace(
            self, offset=found[0], strides=found[1], shape=self.shape, dense=None
        )

    def reshaped(self, shape: Sequence[int], axes: Sequence[int]) -> "Codes":
        """Return the codes with axis i moved to `axes[i]` of a tensor of `shape`."""
        if self.dense is not None:
            sizes = [1] * len(shape)
            small = self.tensor()
            for axis, place in enumerate(axes):
                sizes[place] = small.shape[axis]
            order = sorted(range(len(axes)), key=lambda axis: axes[axis])
            dense = small.permute(order).reshape(sizes)
            return dataclasses.replace(self, shape=tuple(shape), dense=dense)
        steps = [0] * len(shape)
        for axis, place in enumerate(axes):
            steps[place] = self.strides[axis] if self.shape[axis] > 1 else 0
        return dataclasses.replace(self, shape=tuple(shape), strides=tuple(steps))


@dataclass(frozen=True, slots=True)
class Marks:
    """All that is known of a tensor's entries."""

    planes: tuple[Tensor, ...] = ()
    """The neurons, see the module's docstring."""
    codes: Codes | None = None
    """The parameter entries."""
    depends: bool = False
    """Whether the values may change with inputs or parameters. What does not depend is
    a constant of the model, whose values can be looked at."""
    noise: bool = False
    """Whether the values are random draws, alike for all neurons."""

    @property
    def is_plain(self) -> bool:
        """Whether neither neurons nor parameter entries are known."""
        return not self.planes and self.codes is None


@dataclass(frozen=True, slots=True)
class Seen:
    """A tensor of the real forward pass with its marks."""

    value: Tensor
    marks: Marks

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.value.shape)

    @property
    def planes(self) -> tuple[Tensor, ...]:
        """Neuron labels."""
        return self.marks.planes

    @property
    def codes(self) -> Codes | None:
        """Parameter entries."""
        return self.marks.codes

    def placed(self, shape: Sequence[int], axes: Sequence[int]) -> "Seen":
        """Return it as a tensor of `shape` whose axis `axes[i]` is its axis i.

        The other axes broadcast. `axes` must ascend for the values.
        """
        sizes = [1] * len(shape)
        for axis, place in enumerate(axes):
            sizes[place] = self.shape[axis]
        planes = []
        for plane in self.planes:
            small = [1] * len(shape)
            for axis, place in enumerate(axes):
                small[place] = plane.shape[axis]
            planes.append(plane.reshape(small))
        codes = self.codes and self.codes.reshaped(sizes, axes)
        marks = dataclasses.replace(self.marks, planes=tuple(planes), codes=codes)
        index = [slice(None) if axis in axes else None for axis in range(len(shape))]
        return Seen(self.value[tuple(index)], marks)

    def aligned(self, rank: int) -> "Seen":
        """Return it with leading axes of size one, as broadcasting adds them."""
        missing = rank - len(self.shape)
        if missing == 0:
            return self
        return self.placed(
            (1,) * missing + self.shape, range(missing, missing + len(self.shape))
        )

    def varies_along(self, axes: Iterable[int]) -> tuple[int, ...]:
        """Return those of `axes` along which the values may differ."""
        wide = [
            axis
            for axis in axes
            if self.value.shape[axis] > 1 and self.value.stride(axis) != 0
        ]
        if self.marks.noise:
            return ()
        if self.marks.depends:
            return tuple(wide)
        return tuple(axis for axis in wide if not _is_constant(self.value, axis))


@dataclass(slots=True)
class _Storage:
    """The labels of one storage."""

    reference: StorageWeakRef
    itemsize: int
    home: Geometry
    marks: Marks
    planes: list[Tensor] | None = None
    """The planes laid out over the storage, once somebody asked for another view."""
    codes: Tensor | None = None
    fills: bool = False
    """Whether places without a neuron hold one constant."""
    views: dict[Geometry, Marks] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Span:
    """The place of a parameter in its storage."""

    start: int
    stop: int
    base: int
    """Code of the entry at `start`."""
    itemsize: int


class Ledger:
    """Finds the marks of tensors by their place in memory."""

    def __init__(
        self, parameters: Sequence[Tensor], doubt: Callable[[Marks], None]
    ) -> None:
        """Register the parameters; `doubt` is told of marks that get lost."""
        self.bases: list[int] = []
        """First code of every parameter."""
        self._spans: dict[int, list[_Span]] = {}
        self._storages: dict[int, _Storage] = {}
        self._limit = 256
        self._doubt = doubt
        base = 0
        for tensor in parameters:
            self.bases.append(base)
            size = _reach(tuple(tensor.shape), tensor.stride())
            start = int(tensor.storage_offset())
            span = _Span(start, start + size, base, tensor.element_size())
            self._spans.setdefault(_key(tensor), []).append(span)
            base += size

    def see(self, tensor: Tensor) -> Seen:
        """Return a tensor with what is known of its entries."""
        if tensor.layout != torch.strided or tensor.numel() == 0:
            return Seen(tensor, Marks(depends=True))
        spans = self._spans.get(_key(tensor))
        if spans is not None:
            return Seen(tensor, self._entries(tensor, spans))
        found = self._storages.get(_key(tensor))
        return Seen(tensor, Marks() if found is None else self._view(found, tensor))

    def write(self, tensor: Tensor, marks: Marks) -> None:
        """Set what is known of a tensor's entries, and of all that share its memory."""
        if tensor.layout != torch.strided or tensor.numel() == 0:
            return
        key = _key(tensor)
        if key in self._spans:
            return
        place, found = _geometry(tensor), self._storages.get(key)
        is_whole = tensor.numel() * tensor.element_size() == _nbytes(tensor)
        if found is None or place == found.home or is_whole:
            if found is None and _is_nothing(marks):
                return
            if found is None and not is_whole and marks.planes:
                self._storages[key] = self._partial(tensor, marks)
                return
            reference = StorageWeakRef(tensor.untyped_storage())
            self._storages[key] = _Storage(
                reference, tensor.element_size(), place, marks, views={place: marks}
            )
            self._prune()
            return
        self._overwrite(found, tensor, marks)

    def is_part(self, tensor: Tensor) -> bool:
        """Whether the tensor is only a part of its storage."""
        return tensor.numel() * tensor.element_size() != _nbytes(tensor)

    def forget(self, tensor: Tensor) -> None:
        """Drop the marks of a storage."""
        self._storages.pop(_key(tensor), None)

    def _entries(self, tensor: Tensor, spans: list[_Span]) -> Marks:
        start = int(tensor.storage_offset())
        stop = start + _reach(tuple(tensor.shape), tensor.stride())
        for span in spans:
            if span.start <= start and stop <= span.stop:
                if span.itemsize != tensor.element_size():
                    break
                offset = span.base + start - span.start
                shape = tuple(tensor.shape)
                return Marks(codes=Codes(shape, tensor.stride(), offset), depends=True)
        for span in spans:
            everything = Codes((span.stop - span.start,), (1,), span.base)
            self._doubt(Marks(codes=everything))
        return Marks(depends=True)

    def _view(self, found: _Storage, tensor: Tensor) -> Marks:
        place = _geometry(tensor)
        if place in found.views:
            return found.views[place]
        marks = found.marks
        if tensor.element_size() != found.itemsize:
            self._doubt(marks)
            return Marks(depends=True)
        self._lay_out(found, tensor)
        planes = []
        for plane in found.planes or ():
            small = compact(plane.as_strided(*place).long(), ignore=found.fills)
            if bool((small >= 0).any()):
                planes.append(small)
        codes = None
        if found.codes is not None:
            dense = compact(found.codes.as_strided(*place))
            if bool((dense >= 0).any()):
                summary = marks.codes is not None and marks.codes.is_summary
                codes = Codes(place[0], dense=dense, is_summary=summary)
        elif marks.codes is not None:
            shift = marks.codes.offset - found.home[2]
            codes = Codes(place[0], place[1], shift + place[2])
        view = dataclasses.replace(marks, planes=tuple(planes), codes=codes)
        found.views[place] = view
        return view

    def _lay_out(self, found: _Storage, tensor: Tensor) -> None:
        """Spread the planes over the storage, unless that was done before."""
        if found.planes is not None:
            return
        size, home, marks = _nbytes(tensor) // found.itemsize, found.home, found.marks
        found.planes = []
        for plane in marks.planes:
            memory = torch.full((size,), -1, dtype=torch.int32)
            memory.as_strided(*home).copy_(plane.expand(home[0]))
            found.planes.append(memory)
        codes = marks.codes
        if codes is not None and not _is_parallel(codes, home):
            found.codes = torch.full((size,), -1)
            found.codes.as_strided(*home).copy_(codes.tensor().expand(home[0]))

    def _partial(self, tensor: Tensor, marks: Marks) -> _Storage:
        """Return labels for a constant buffer of which a part was written."""
        size = _nbytes(tensor) // tensor.element_size()
        home: Geometry = ((size,), (1,), 0)
        bare = Marks(planes=(), codes=None, depends=True)
        reference = StorageWeakRef(tensor.untyped_storage())
        found = _Storage(reference, tensor.element_size(), home, bare, planes=[])
        found.fills = True
        self._overwrite(found, tensor, marks)
        return found

    def _overwrite(self, found: _Storage, tensor: Tensor, marks: Marks) -> None:
        """Write marks through a view."""
        before = self._view(found, tensor)
        if tensor.element_size() != found.itemsize:
            self._doubt(marks)
            return
        if found.codes is not None or before.codes is not None:
            self._doubt(before)
            found.codes = None
        if marks.codes is not None:
            self._doubt(marks)
        self._lay_out(found, tensor)
        assert found.planes is not None
        place, slots = _geometry(tensor), list(range(len(found.planes)))
        for plane in marks.planes:
            slot = self._slot(found, place, plane, slots)
            if slot is None:
                size = _nbytes(tensor) // found.itemsize
                found.planes.append(torch.full((size,), -1, dtype=torch.int32))
                slot = len(found.planes) - 1
            else:
                slots.remove(slot)
            found.planes[slot] = found.planes[slot].clone()
            found.planes[slot].as_strided(*place).copy_(plane.expand(place[0]))
        for slot in slots:
            found.planes[slot] = found.planes[slot].clone()
            found.planes[slot].as_strided(*place).fill_(-1)
        found.marks = dataclasses.replace(found.marks, depends=True, codes=None)
        found.home = ((), (), -1)  # no tensor is the whole any more
        found.views = {}

    def _slot(
        self, found: _Storage, place: Geometry, plane: Tensor, slots: list[int]
    ) -> int | None:
        """Return the stored plane that varies along the same axes here."""
        assert found.planes is not None
        for slot in slots:
            here = compact(found.planes[slot].as_strided(*place).long())
            is_empty = not bool((here >= 0).any())
            if is_empty or set(varying(here)) & set(varying(plane)):
                return slot
        return None

    def _prune(self) -> None:
        """Forget storages that were freed."""
        if len(self._storages) < self._limit:
            return
        self._storages = {
            key: found
            for key, found in self._storages.items()
            if not found.reference.expired()
        }
        self._limit = 2 * len(self._storages) + 256


def compact(labels: Tensor, *, ignore: bool = False) -> Tensor:
    """Return labels of size one along every axis on which they do not change.

    Args:
        labels: integers.
        ignore: whether entries of -1 may take any value.
    """
    for axis, size in enumerate(labels.shape):
        if size < 2:
            continue
        first = labels.narrow(axis, 0, 1)
        if labels.stride(axis) == 0 or bool((labels == first).all()):
            labels = first
        elif ignore:
            top = labels.amax(axis, keepdim=True)
            if bool(((labels == top) | (labels < 0)).all()):
                labels = top
    return labels


def varying(plane: Tensor) -> tuple[int, ...]:
    """Return the axes along which a compact plane varies."""
    return tuple(axis for axis, size in enumerate(plane.shape) if size > 1)


def fit(numbers: Tensor) -> tuple[int, tuple[int, ...]] | None:
    """Return offset and strides of an affine array of integers, None if it is not."""
    offset = int(numbers[(0,) * numbers.dim()])
    strides, model = [], torch.full((1,) * numbers.dim(), offset)
    for axis, size in enumerate(numbers.shape):
        step = 0
        if size > 1:
            step = int(numbers.select(axis, 1)[(0,) * (numbers.dim() - 1)]) - offset
            line = torch.arange(size) * step
            model = model + line.view(_along(axis, numbers.dim()))
        strides.append(step)
    if offset < 0 or not bool((numbers == model).all()):
        return None
    return offset, tuple(strides)


def _along(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(-1 if other == axis else 1 for other in range(rank))


def _reach(shape: tuple[int, ...], strides: Sequence[int]) -> int:
    pairs = zip(shape, strides, strict=True)
    return 1 + sum((size - 1) * step for size, step in pairs) if math.prod(shape) else 0


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _nbytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _geometry(tensor: Tensor) -> Geometry:
    return tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())


def _is_constant(value: Tensor, axis: int) -> bool:
    """Whether the values do not change along an axis (NaN never equals)."""
    return bool((value == value.narrow(axis, 0, 1)).all())


def _is_parallel(codes: Codes, home: Geometry) -> bool:
    """Whether memory and codes advance alike, so that any view has affine codes."""
    if codes.dense is not None or codes.is_summary:
        return False
    return all(
        size < 2 or step == own
        for size, step, own in itertools.zip_longest(home[0], codes.strides, home[1])
    )


def _is_nothing(marks: Marks) -> bool:
    return marks.is_plain and not marks.depends and not marks.noise
