"""Finding what a tensor holds by its place in memory.

Labels belong to storages, not to tensor objects: a view, however it was made, finds
its labels by its place in memory, and a write through a view reaches every other view.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .labels import Codes, LabelCache, Labelled, Labels, compact, varying

Geometry = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass(slots=True)
class _Storage:
    """The labels of one storage."""

    reference: StorageWeakRef
    itemsize: int
    home: Geometry
    labels: Labels
    planes: list[Tensor] | None = None
    """The planes laid out over the storage; None until another view is read."""
    codes: Tensor | None = None
    fills: bool = False
    """Whether places without a neuron hold one constant."""
    views: dict[Geometry, Labels] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Span:
    """The place of a parameter in its storage."""

    start: int
    stop: int
    base: int
    """Code of the entry at `start`."""
    itemsize: int


@dataclass(frozen=True, slots=True)
class Home:
    """One axis of a stored tensor."""

    key: int
    """Which storage."""
    axis: int
    """Which axis."""
    number: int | None
    """Which input of the network the tensor is, None if it is none."""


class LabelStore:
    """Finds the labels of tensors by their place in memory."""

    def __init__(
        self, parameters: Sequence[Tensor], doubt: Callable[[Labels], None]
    ) -> None:
        """Register the parameters; `doubt` is called where labels get lost."""
        self.bases: list[int] = []
        """First code of every parameter."""
        self._spans: dict[int, list[_Span]] = {}
        self._storages: dict[int, _Storage] = {}
        self._inputs: dict[int, int] = {}
        self.cache = LabelCache()
        """Equal labels as one object."""
        self._views: dict[object, tuple[Labels, Labels]] = {}
        self._limit = 16
        self._doubt = doubt
        base = 0
        for tensor in parameters:
            self.bases.append(base)
            size = _reach(tuple(tensor.shape), tensor.stride())
            start = int(tensor.storage_offset())
            span = _Span(start, start + size, base, tensor.element_size())
            self._spans.setdefault(_key(tensor), []).append(span)
            base += size

    def see(self, tensor: Tensor) -> Labelled:
        """Return a tensor with what is known of its entries."""
        if tensor.layout != torch.strided or tensor.numel() == 0:
            return Labelled(tensor, Labels(depends=True))
        memory = _key(tensor)
        spans = self._spans.get(memory)
        if spans is not None:
            key = memory, _geometry(tensor), tensor.dtype
            if key not in self._views:
                labels = self._entries(tensor, spans)
                if labels.is_plain:  # given up, every time it is seen
                    return Labelled(tensor, labels)
                self._views[key] = labels, labels
            return Labelled(tensor, self._views[key][1])
        found = self._storages.get(memory)
        return Labelled(
            tensor, Labels() if found is None else self._view(found, tensor)
        )

    def write(self, tensor: Tensor, labels: Labels) -> None:
        """Set what is known of a tensor's entries, and of all that share its memory."""
        if tensor.layout != torch.strided or tensor.numel() == 0:
            return
        key = _key(tensor)
        if key in self._spans:
            return
        for axis, (size, step) in enumerate(
            zip(tensor.shape, tensor.stride(), strict=True)
        ):
            if size > 1 and not step:  # `expand`: one entry in many places
                if any(plane.shape[axis] > 1 for plane in labels.planes):
                    self._doubt(labels)
                    labels = Labels(depends=True)
                tensor, labels = tensor.narrow(axis, 0, 1), _narrowed(labels, axis)
        place, found = _geometry(tensor), self._storages.get(key)
        is_whole = tensor.numel() * tensor.element_size() == _nbytes(tensor)
        if found is None or place == found.home or is_whole:
            if found is None and _is_nothing(labels):
                return
            if found is None and not is_whole and labels.planes:
                self._storages[key] = self._partial(tensor, labels)
                return
            reference = StorageWeakRef(tensor.untyped_storage())
            self._storages[key] = _Storage(
                reference, tensor.element_size(), place, labels, views={place: labels}
            )
            self._prune()
            return
        self._overwrite(found, tensor, labels)

    def knows(self, tensor: Tensor) -> bool:
        """Whether something is known of a tensor's memory."""
        if tensor.layout != torch.strided:
            return True
        return _key(tensor) in self._storages or _key(tensor) in self._spans

    def name_input(self, tensor: Tensor, number: int) -> None:
        """Remember that a tensor is the network's input of some number."""
        if tensor.layout == torch.strided and tensor.numel():
            self._inputs[_key(tensor)] = number

    def whole_axis(self, tensor: Tensor, axis: int) -> Home | None:
        """Return the axis of the whole stored tensor that an axis of a view is.

        Returns:
            None if the tensor is not a piece of an unlabelled one, or holds only a part
            of the axis.
        """
        found = self._storages.get(_key(tensor))
        if found is None or not found.labels.is_plain or found.planes:
            return None
        shape, strides, start = found.home
        lines = [a for a, size in enumerate(shape) if size > 1]
        size, step = tensor.shape[axis], tensor.stride(axis)
        own = [a for a in lines if shape[a] == size and strides[a] == step]
        if len(own) != 1 or tensor.element_size() != found.itemsize:
            return None
        period = size * step
        others = zip(tensor.shape, tensor.stride(), strict=True)
        for other, (length, stride) in enumerate(others):
            is_outer = stride % period == 0
            is_inner = (length - 1) * stride < step
            if other != axis and length > 1 and not (is_outer or is_inner):
                return None
        if (int(tensor.storage_offset()) - start) % period >= step:
            return None
        number = self._inputs.get(_key(tensor))
        return Home(_key(tensor), own[0], number)

    def label_whole(self, home: "Home", ids: Tensor) -> None:
        """Give neurons to a whole stored tensor along one axis."""
        found = self._storages[home.key]
        rank = len(found.home[0])
        plane = ids.view([-1 if axis == home.axis else 1 for axis in range(rank)])
        found.labels = dataclasses.replace(found.labels, planes=(plane,))
        found.planes, found.views = None, {found.home: found.labels}

    def is_part(self, tensor: Tensor) -> bool:
        """Whether the tensor is only a part of its storage."""
        return tensor.numel() * tensor.element_size() != _nbytes(tensor)

    def forget(self, tensor: Tensor) -> None:
        """Drop the labels of a storage."""
        self._storages.pop(_key(tensor), None)

    def _entries(self, tensor: Tensor, spans: list[_Span]) -> Labels:
        start, size = int(tensor.storage_offset()), tensor.element_size()
        reach = _reach(tuple(tensor.shape), tensor.stride())
        for span in spans:
            # A complex number over real entries holds two of them.
            is_pair = tensor.is_complex() and size == 2 * span.itemsize
            width = 2 if is_pair else 1
            first, last = width * start, width * (start + reach)
            fits = size == width * span.itemsize
            if fits and span.start <= first and last <= span.stop:
                strides = tuple(width * step for step in tensor.stride())
                offset, shape = span.base + first - span.start, tuple(tensor.shape)
                codes = Codes(shape, strides, offset, width=width)
                return Labels(codes=codes, depends=True)
        for span in spans:
            everything = Codes((span.stop - span.start,), (1,), span.base)
            self._doubt(Labels(codes=everything))
        return Labels(depends=True)

    def _view(self, found: _Storage, tensor: Tensor) -> Labels:
        place = _geometry(tensor)
        if place in found.views:
            return found.views[place]
        labels = found.labels
        key = id(labels), found.home, place, tensor.element_size() == found.itemsize
        if key in self._views:
            return self._views[key][1]
        if tensor.element_size() != found.itemsize:
            self._doubt(labels)
            return Labels(depends=True)
        self._lay_out(found, tensor)
        planes = []
        for plane in found.planes or ():
            # `long` copies, so that the storage's planes can be freed.
            small = compact(plane.as_strided(*place), ignore=found.fills).long()
            if bool((small >= 0).any()):
                planes.append(small)
        codes = None
        if found.codes is not None:
            dense = compact(found.codes.as_strided(*place)).clone()
            if bool((dense >= 0).any()):
                summary = labels.codes is not None and labels.codes.is_summary
                width = 1 if labels.codes is None else labels.codes.width
                codes = Codes(place[0], dense=dense, is_summary=summary, width=width)
        elif labels.codes is not None:
            shift = labels.codes.offset - found.home[2]
            width = labels.codes.width
            codes = Codes(place[0], place[1], shift + place[2], width=width)
        view = dataclasses.replace(labels, planes=tuple(planes), codes=codes)
        view = found.views[place] = self.cache.shared(view)
        self._views[key] = labels, view
        return view

    def _lay_out(self, found: _Storage, tensor: Tensor) -> None:
        """Spread the planes over the storage, unless that was done before."""
        if found.planes is not None:
            return
        size, home, labels = _nbytes(tensor) // found.itemsize, found.home, found.labels
        found.planes = []
        for plane in labels.planes:
            memory = torch.full((size,), -1, dtype=torch.int32)
            memory.as_strided(*home).copy_(plane.expand(home[0]))
            found.planes.append(memory)
        codes = labels.codes
        if codes is not None and not _is_parallel(codes, home):
            found.codes = torch.full((size,), -1)
            found.codes.as_strided(*home).copy_(codes.tensor().expand(home[0]))

    def _partial(self, tensor: Tensor, labels: Labels) -> _Storage:
        """Return labels for a constant buffer of which a part was written."""
        size = _nbytes(tensor) // tensor.element_size()
        home: Geometry = ((size,), (1,), 0)
        bare = Labels(planes=(), codes=None, depends=True)
        reference = StorageWeakRef(tensor.untyped_storage())
        found = _Storage(reference, tensor.element_size(), home, bare, planes=[])
        found.fills = True
        self._overwrite(found, tensor, labels)
        return found

    def _overwrite(self, found: _Storage, tensor: Tensor, labels: Labels) -> None:
        """Write labels through a view."""
        before = self._view(found, tensor)
        if before is labels:
            return
        if tensor.element_size() != found.itemsize:
            self._doubt(labels)
            return
        if found.codes is not None or before.codes is not None:
            self._doubt(before)
            found.codes = None
        if labels.codes is not None:
            self._doubt(labels)
        self._lay_out(found, tensor)
        assert found.planes is not None
        place, slots = _geometry(tensor), list(range(len(found.planes)))
        for plane in labels.planes:
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
        found.labels = dataclasses.replace(found.labels, depends=True, codes=None)
        found.home = ((), (), -1)  # no tensor covers the whole storage any more
        found.views = {}

    def _slot(
        self, found: _Storage, place: Geometry, plane: Tensor, slots: list[int]
    ) -> int | None:
        """Return the stored plane that varies along the same axes here."""
        assert found.planes is not None
        for slot in slots:
            here = compact(found.planes[slot].as_strided(*place))
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
        self._limit = 2 * len(self._storages) + 16


def _narrowed(labels: Labels, axis: int) -> Labels:
    """Return the labels of the first entry along an axis without neurons."""
    codes = labels.codes
    if codes is None:
        return labels
    shape = tuple(1 if a == axis else size for a, size in enumerate(codes.shape))
    dense = None if codes.dense is None else codes.dense.narrow(axis, 0, 1)
    return dataclasses.replace(
        labels, codes=dataclasses.replace(codes, shape=shape, dense=dense)
    )


def _reach(shape: tuple[int, ...], strides: Sequence[int]) -> int:
    pairs = zip(shape, strides, strict=True)
    return 1 + sum((size - 1) * step for size, step in pairs) if math.prod(shape) else 0


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _nbytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _geometry(tensor: Tensor) -> Geometry:
    return tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())


def _is_parallel(codes: Codes, home: Geometry) -> bool:
    """Whether memory and codes advance alike, so that any view has affine codes."""
    if codes.dense is not None or codes.is_summary or codes.width > 1:
        return False
    return all(
        size < 2 or step == own
        for size, step, own in itertools.zip_longest(home[0], codes.strides, home[1])
    )


def _is_nothing(labels: Labels) -> bool:
    return labels.is_plain and not labels.depends and not labels.noise
