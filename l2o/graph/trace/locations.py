"""Where each entry of each parameter lies, settled from all its uses."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l2o.graph.neural_graph import Operation, View

from .labels import Codes
from .trace_log import Ids, PairedCodes, TraceLog, Use

_CONSTANT = "constants"
NEVER_USED = "the forward pass never used it"
PARTLY_USED = "the forward pass used only a part of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A block or node parameter, its ends as neuron numbers."""

    view: View
    """Axes (part, target, source, *cells) or (neuron, *cells), over the flat tensor."""
    target: Ids
    source: Ids | None
    is_alias: bool
    operation: Operation | None


def settle(
    log: TraceLog, parameters: Sequence[Tensor]
) -> tuple[list[list[Location]], dict[int, str]]:
    """Return the places of every parameter, and why others have none.

    Neurons whose parameters are in doubt are frozen in the log, and uses of tied
    weights are joined.
    """
    uses: list[list[Use]] = [[] for _ in parameters]
    for use in log.uses:
        uses[use.parameter].append(use)
    for paired in log.pairs:
        _follow(log, paired, uses)
    places: list[list[Location]] = []
    reasons: dict[int, str] = {}
    for number, tensor in enumerate(parameters):
        own = [_flat(log, use, tensor) for use in _known_sources(log, uses[number])]
        found, reason = _owners(own, tensor)
        reason = log.unplaced.get(number, reason)
        if found and number in log.shared:
            reason = log.shared[number]
        if not uses[number] and number not in log.unplaced:
            reason = log.shared.get(number, NEVER_USED)
        if tensor.numel() == 0:
            reason = "it has no entries"
        if reason is None:
            _link(log, found)
        if reason is not None or number in log.rigid:
            for place in own:
                _freeze(log, place)
        if reason is not None:
            reasons[number] = reason
        places.append(found if reason is None else [])
    return places, reasons


def _known_sources(log: TraceLog, uses: list[Use]) -> list[Use]:
    """Fill in the neurons behind weights that met a constant first."""
    known = [use for use in uses if use.source is None or len(use.source)]
    kept = []
    for use in uses:
        if use.source is not None and not len(use.source):
            if any(
                other.source is not None and np.array_equal(other.target, use.target)
                for other in known
            ):
                continue
            size = use.codes.shape[0] * use.codes.shape[2]
            source = log.add_group(_CONSTANT, size, frozen=True).numpy()
            use = dataclasses.replace(use, source=source)
        kept.append(use)
    return kept


def _flat(log: TraceLog, use: Use, tensor: Tensor) -> Location:
    """Return a use with codes counted in the parameter's own, contiguous order."""
    codes, base = use.codes, log.bases[use.parameter]
    offset, strides = codes.offset - base, codes.strides
    if not tensor.is_contiguous():
        start = _contiguous(offset, tensor)
        strides = tuple(
            _contiguous(offset + step, tensor) - start if size > 1 else 0
            for size, step in zip(codes.shape, codes.strides, strict=True)
        )
        offset = start
    return Location(
        view=View(codes.shape, strides, offset),
        target=use.target,
        source=use.source,
        is_alias=False,
        operation=use.operation,
    )


def _contiguous(position: int, tensor: Tensor) -> int:
    """Return the flat index of the entry at a place in memory."""
    index, order = 0, sorted(range(tensor.dim()), key=lambda axis: -tensor.stride(axis))
    for axis in order:
        if tensor.shape[axis] > 1:
            step = math.prod(tensor.shape[axis + 1 :])
            index += position // tensor.stride(axis) * step
            position %= tensor.stride(axis)
    return index


def _owners(own: list[Location], tensor: Tensor) -> tuple[list[Location], str | None]:
    """Mark the uses whose entries others own already; complete partial ones."""
    if not own:
        return [], None
    if own[0].view.numel == tensor.numel() and _is_injective(own[0].view):
        return [own[0], *(dataclasses.replace(p, is_alias=True) for p in own[1:])], None
    found = []
    covered = torch.zeros(tensor.numel(), dtype=torch.bool)
    for place in own:
        if not _is_injective(place.view):
            return own, "some of its entries are used in two ways"
        view = place.view
        part = covered.as_strided(view.shape, view.strides, view.offset)
        count = int(part.sum())
        if count not in (0, part.numel()):
            return own, "its uses overlap"
        found.append(dataclasses.replace(place, is_alias=count > 0))
        part.fill_(True)
    if bool(covered.all()):
        return found, None
    first = _completed(found[0], tensor)
    if first is not None and all(place.is_alias for place in found[1:]):
        return [first, *found[1:]], None
    return own, PARTLY_USED


def _is_injective(view: View) -> bool:
    """Whether no two indices mean one entry."""
    reach = 1
    pairs = zip(view.strides, view.shape, strict=True)
    for step, size in sorted(pair for pair in pairs if pair[1] > 1):
        if step < reach:
            return False
        reach = step * (size - 1) + reach
    return True


def _completed(place: Location, tensor: Tensor) -> Location | None:
    """Extend a node parameter of which some cells were not used, such as positions."""
    if place.source is not None:
        return None
    full = View.contiguous(*tensor.shape)
    for axis, (size, step) in enumerate(zip(full.shape, full.strides, strict=True)):
        starts = place.view.offset // step % size == 0
        if size == len(place.target) and starts and place.view.strides[0] == step:
            order = [axis, *(a for a in range(tensor.dim()) if a != axis)]
            shape = tuple(full.shape[a] for a in order)
            strides = tuple(full.strides[a] for a in order)
            return dataclasses.replace(place, view=View(shape, strides))
    return None


def _freeze(log: TraceLog, place: Location) -> None:
    log.frozen[place.target] = True
    if place.source is not None:
        log.frozen[place.source] = True


def _link(log: TraceLog, places: list[Location]) -> None:
    """Join the neurons at later uses of entries to those at the first use."""
    owners = [place for place in places if not place.is_alias]
    for place in places:
        if not place.is_alias:
            continue
        ends = [(place.target, 0 if place.source is None else 1)]
        if place.source is not None:
            ends.append((place.source, 2))
        if not all(_link_end(log, owners, place, *end) for end in ends):
            for other in (place, *owners):
                _freeze(log, other)


def _link_end(
    log: TraceLog, owners: list[Location], place: Location, neurons: Ids, axis: int
) -> bool:
    """Join the neurons of one axis of an alias; False if they match no axis."""
    view = place.view
    line = np.arange(view.shape[axis]) * view.strides[axis]
    others = [a for a in range(len(view.shape)) if a != axis and (axis == 0 or a != 0)]
    last = sum((view.shape[a] - 1) * view.strides[a] for a in others)
    parts = view.shape[0] if axis else 1
    for part in range(parts):
        start = view.offset + (part * view.strides[0] if axis else 0)
        own = neurons.reshape(parts, -1)[part]
        seen = [_ends_at(owners, start + shift + line) for shift in (0, last)]
        if seen[0] is None or seen[1] is None:
            return False
        matched = len(own) == 1
        if matched:
            log.frozen[own] = True
        for first, second in zip(seen[0], seen[1], strict=True):
            if (
                not matched
                and len(np.unique(first)) == len(first)
                and np.array_equal(first, second)
            ):
                log.join(None, first, own, 0)
                matched = True
        if not matched:
            return False
    return True


def _ends_at(owners: list[Location], entries: Ids) -> tuple[Ids, Ids] | None:
    """Return the target and source neurons of entries, -1 for no source."""
    target = np.full(len(entries), -1)
    source = np.full(len(entries), -1)
    for place in owners:
        index, inside = _decode(place.view, entries)
        if place.source is None:
            target[inside] = place.target[index[0][inside]]
            continue
        part, row, column = (axis[inside] for axis in index[:3])
        target[inside] = place.target[part * place.view.shape[1] + row]
        source[inside] = place.source[part * place.view.shape[2] + column]
    return None if (target < 0).any() else (target, source)


def _decode(view: View, entries: Ids) -> tuple[list[Ids], NDArray[np.bool_]]:
    """Return the indices of entries in a view, and which of them it holds."""
    rest = entries - view.offset
    index = [np.zeros_like(rest) for _ in view.shape]
    for axis in sorted(range(len(view.shape)), key=lambda a: -view.strides[a]):
        if view.shape[axis] > 1 and view.strides[axis]:
            index[axis] = np.clip(rest // view.strides[axis], 0, view.shape[axis] - 1)
            rest = rest - index[axis] * view.strides[axis]
    return index, rest == 0


def _follow(log: TraceLog, paired: PairedCodes, uses: list[list[Use]]) -> None:
    """Location entries that meet another parameter's, where that one lies."""
    main, other = paired.main, paired.other
    (owner,), (guest,) = log.parameters_of(main), log.parameters_of(other)
    hosts = [use for use in uses[owner] if use.source is None or len(use.source)]
    made = [_beside(use, paired, guest) for use in hosts]
    if not made or any(use is None for use in made):
        log.rigid.add(owner)
        log.unplaced.setdefault(guest, "it is combined with another parameter")
        return
    uses[guest] += [use for use in made if use is not None]


def _beside(use: Use, paired: PairedCodes, guest: int) -> Use | None:
    """Return the use of the guest's entries next to one use of the host's."""
    main, other = paired.main, paired.other
    lines = zip(main.shape, main.strides, _aligned(other), strict=True)
    steps = {own: new for size, own, new in lines if size > 1}
    strides = []
    for size, step in zip(use.codes.shape, use.codes.strides, strict=True):
        if size > 1 and step not in steps:
            return None
        strides.append(steps[step] if size > 1 else 0)
    if use.codes.offset != main.offset:
        return None
    kept = [a for a, step in enumerate(strides) if step]
    if use.source is None:
        shape = [use.codes.shape[0], *(use.codes.shape[a] for a in kept if a > 0)]
        lines = [strides[0], *(strides[a] for a in kept if a > 0)]
        ends = use.target, None
    elif strides[2] and (strides[1] or strides[0]):
        keep = [0, 1, 2, *(a for a in kept if a > 2)]
        shape, lines = [use.codes.shape[a] for a in keep], [strides[a] for a in keep]
        ends = use.target, use.source
    else:
        axis = 2 if strides[2] else 1
        if use.codes.shape[0] > 1:
            return None
        shape = [use.codes.shape[axis], *(use.codes.shape[a] for a in kept if a > 2)]
        lines = [strides[axis], *(strides[a] for a in kept if a > 2)]
        ends = (use.target if axis == 1 else use.source), None
    codes = dataclasses.replace(
        other, shape=tuple(shape), strides=tuple(lines), dense=None
    )
    return Use(parameter=guest, codes=codes, target=ends[0], source=ends[1])


def _aligned(other: Codes) -> tuple[int, ...]:
    return tuple(
        step if size > 1 else 0
        for size, step in zip(other.shape, other.strides, strict=True)
    )
