"""Rules for operators that reduce, scan or pool entries."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from .calls import Call, Found
from .labels import Codes, Labelled, Labels, varying
from .pointwise import is_nonzero
from .reshaping import axes_from
from .trace_log import axes_of
from .tracer import Tracer


def symmetric(tracer: Tracer, call: Call) -> Found:
    """Follow a reduction in which the order of the entries does not matter."""
    return _reduction(tracer, call, is_mean=True)


def ordered(tracer: Tracer, call: Call) -> Found:
    """Follow a reduction that returns the place of an entry."""
    return _reduction(tracer, call, is_mean=False)


def extreme(tracer: Tracer, call: Call) -> Found:
    """Follow `max` and `min`, which return places only along one axis."""
    return _reduction(tracer, call, is_mean=call.given.get("dim") is None)


def _reduction(tracer: Tracer, call: Call, *, is_mean: bool) -> Found:
    seen = call.only_input()
    if seen is None or call.given.get("other") is not None:
        return None
    axes = axes_from(call.given.get("dim"), len(seen.shape))
    keeps = bool(call.given.get("keepdim", False))
    labels = reduced(tracer, seen, axes, keeps=keeps, is_mean=is_mean)
    tracer.note_once(labels.planes, call.operation)
    return labels


def softmax(tracer: Tracer, call: Call) -> Found:
    """Follow a softmax."""
    seen = call.only_input()
    if seen is None:
        return None
    axis = call.given["dim"] % max(len(seen.shape), 1)
    return along(tracer, seen, axis, is_symmetric=True)


def scan(tracer: Tracer, call: Call) -> Found:
    """Follow a cumulative sum, or another running result along an axis."""
    seen = call.only_input()
    return None if seen is None else along(tracer, seen, _axis(call, seen))


def sort(tracer: Tracer, call: Call) -> Found:
    """Follow sorting along an axis, after which nothing is known of the axis."""
    seen = call.only_input()
    if seen is None:
        return None
    axis = _axis(call, seen)
    labels = along(tracer, seen, axis)
    planes = tuple(p for p in labels.planes if axis not in axes_of(p))
    return Labels(planes=planes, depends=True)


def transform(tracer: Tracer, call: Call) -> Found:
    """Follow a Fourier transform: sums over some axes, with fixed factors."""
    seen = call.only_input()
    if seen is None or seen.codes is not None:
        return None
    lines = set(axes_from(call.given["dim"], len(seen.shape)))
    planes = []
    for plane in seen.planes:
        rest = sorted(axes_of(plane) - lines)
        if len(rest) == len(axes_of(plane)):
            planes.append(plane)
            continue
        has_zeros = not is_nonzero(seen.value, plane < 0)
        merged = None
        if rest:
            merged = tracer.joins.vector(plane, rest, "residual", has_zeros=has_zeros)
        else:
            tracer.log.freeze(plane)
        planes += [] if merged is None else [merged]
    return Labels(planes=tuple(planes), depends=True)


def _axis(call: Call, seen: Labelled) -> int:
    axis, rank = call.given.get("dim", -1), len(seen.shape)
    return (rank - 1 if axis is None else axis) % max(rank, 1)


def pool(tracer: Tracer, call: Call) -> Found:
    """Follow pooling and resampling over the last axes."""
    seen = call.only_input()
    if seen is None:
        return None
    digits = [int(letter) for letter in call.name if letter.isdigit()]
    labels = local(tracer, seen, digits[-1])
    tracer.note_once(labels.planes, call.operation)
    return labels


def reduced(
    tracer: Tracer, seen: Labelled, axes: Iterable[int], *, keeps: bool, is_mean: bool
) -> Labels:
    """Return the labels of a reduction over some axes.

    Args:
        tracer: the pass so far.
        seen: what is reduced.
        axes: the axes, not negative.
        keeps: whether they stay, of size one.
        is_mean: whether the order along the axes does not matter.
    """
    gone = sorted(axes)
    planes = []
    for plane in seen.planes:
        if axes_of(plane) & set(gone):
            if not is_mean:
                tracer.log.freeze(plane)
            elif tracer.bundle(plane, gone):
                left = sorted(axes_of(plane) - set(gone))
                merged = tracer.joins.vector(plane, left, "residual")
                if merged is not None:
                    planes.append(merged if keeps else _without(merged, gone))
            else:
                tracer.mean(plane, gone)
        elif axes_of(plane) or len(gone) < plane.dim():
            planes.append(plane if keeps else _without(plane, gone))
    codes = seen.codes
    if codes is not None:
        small = codes.tensor()
        small = small.amin(gone, keepdim=True) if gone else small
        small = small if keeps else _without(small, gone)
        shape = [1 if a in gone else size for a, size in enumerate(seen.shape)]
        if not keeps:
            shape = [size for a, size in enumerate(seen.shape) if a not in gone]
        is_summary = codes.is_summary or bool(set(codes.axes) & set(gone))
        codes = Codes(
            tuple(shape), dense=small, is_summary=is_summary, width=codes.width
        )
        if not is_mean:
            tracer.log.freeze_ends(codes)
    depends = seen.labels.depends or not seen.labels.is_plain
    return Labels(planes=tuple(planes), codes=codes, depends=depends)


def _without(plane: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        plane = plane.select(axis, 0)
    return plane


def along(
    tracer: Tracer, seen: Labelled, axis: int, *, is_symmetric: bool = False
) -> Labels:
    """Return the labels of an operator along one axis that keeps the shape.

    A softmax is symmetric in the entries of the axis, a cumulative sum is not.
    """
    for plane in seen.planes:
        if axis in axes_of(plane):
            if is_symmetric and tracer.bundle(plane, (axis,)):
                tracer.joins.vector(plane, sorted(axes_of(plane) - {axis}), "residual")
            elif is_symmetric:
                tracer.mean(plane, (axis,))
            else:
                tracer.log.freeze(plane)
    if seen.codes is not None and axis in seen.codes.axes and not is_symmetric:
        tracer.log.freeze_ends(seen.codes)
    depends = seen.labels.depends or not seen.labels.is_plain
    return Labels(planes=seen.planes, codes=seen.codes, depends=depends)


def local(tracer: Tracer, seen: Labelled, spatial: int) -> Labels:
    """Return the labels of pooling or resampling over the last axes."""
    if seen.codes is not None:
        tracer.lose(seen, "pooling of a parameter")
        return Labels(depends=True)
    rank, planes = seen.value.dim(), []
    for plane in seen.planes:
        if any(axis >= rank - spatial for axis in varying(plane)):
            channel = rank - spatial - 1
            line = tracer.joins.vector(plane, range(channel + 1))
            if line is None or varying(line) != (channel,):
                tracer.log.freeze(plane)
                continue
            plane = line
        planes.append(plane)
    return Labels(planes=tuple(planes), depends=True)
