"""What the entries of a tensor are: neurons, parameter entries, or neither.

A *plane* is an integer tensor that broadcasts to the labelled tensor and holds the
neuron of every entry, -1 for none. It has size one along every axis on which the
neuron does not change, so the axes on which it varies are the neuron axes. A tensor
may have several planes: the product of queries and keys over the positions of a
sequence has one of rows and one of columns.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
    width: int = 1
    """How many successive codes an entry holds: 2 for a complex number over two real
    entries of a parameter."""

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
class Labels:
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


class LabelCache:
    """Makes equal labels one object, so that a loop can be recognised by identity."""

    def __init__(self) -> None:
        self._known: dict[object, Labels] = {}
        self._has_holes: dict[int, bool] = {}

    def shared(self, labels: Labels) -> Labels:
        """Return the first labels that were equal to these; large ones as they are."""
        codes = labels.codes
        if codes is not None:
            if codes.dense is not None:
                return labels
            codes = codes.shape, codes.strides, codes.offset, codes.width
            codes = (*codes, labels.codes is not None and labels.codes.is_summary)
        planes = []
        for plane in labels.planes:
            if plane.numel() > _LARGEST_SHARED:
                return labels
            planes.append((plane.shape, plane.numpy().tobytes()))
        key = tuple(planes), codes, labels.depends, labels.noise
        return self._known.setdefault(key, labels)

    def is_recurring(self, labels: Labels) -> bool:
        """Whether labels say all that rules read, so that no value matters.

        Rules look at constants of the model, and at values where there is no neuron.
        """
        if labels.is_plain:
            return labels.depends or labels.noise
        key = id(labels)
        if key not in self._has_holes:
            has_holes = any(bool((plane < 0).any()) for plane in labels.planes)
            self._has_holes[key] = has_holes
            self._known.setdefault(("kept", key), labels)  # so that the number stays
        return not self._has_holes[key]


_LARGEST_SHARED = 4096
"""Planes with more entries are not compared."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A tensor of the real forward pass with its labels."""

    value: Tensor
    labels: Labels

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.value.shape)

    @property
    def planes(self) -> tuple[Tensor, ...]:
        """Neuron labels."""
        return self.labels.planes

    @property
    def codes(self) -> Codes | None:
        """Parameter entries."""
        return self.labels.codes

    def placed(self, shape: Sequence[int], axes: Sequence[int]) -> "Labelled":
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
        labels = dataclasses.replace(self.labels, planes=tuple(planes), codes=codes)
        index = [slice(None) if axis in axes else None for axis in range(len(shape))]
        return Labelled(self.value[tuple(index)], labels)

    def aligned(self, rank: int) -> "Labelled":
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
        if self.labels.noise:
            return ()
        if self.labels.depends:
            return tuple(wide)
        return tuple(axis for axis in wide if not _is_constant(self.value, axis))


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


def _is_constant(value: Tensor, axis: int) -> bool:
    """Whether the values do not change along an axis (NaN never equals)."""
    return bool((value == value.narrow(axis, 0, 1)).all())
