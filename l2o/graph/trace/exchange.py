"""Which neurons may change places: threads of tied neurons that look alike."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .locations import Location
from .trace_log import Ids, TraceLog, mix
from .union_find import merge

Words = NDArray[np.uint64]


def exchangeable(
    log: TraceLog, places: Sequence[Sequence[Location]]
) -> list[list[Ids]]:
    """Return sets of threads that may change places.

    Neurons joined one to one (by a residual sum, a norm's scale, an attention score, a
    tied weight) form a thread and move together. Threads are alike if their neurons,
    in order, lie in the same groups, parts of blocks and places told apart, and are
    joined in the same way. Alike threads whose neurons are all free may be permuted.

    Returns:
        For each set, its members: one array of neurons for each slot of the threads,
        entry i belonging to thread i.
    """
    colours = _coloured(log, places)
    sources, targets, codes = _edges(log, places)
    root = merge(np.arange(log.size), sources, targets)
    order = np.lexsort((np.arange(log.size), root))
    starts = np.flatnonzero(np.diff(root[order], prepend=-1))
    slot = np.empty(log.size, dtype=np.int64)
    lengths = np.diff(np.append(starts, log.size))
    slot[order] = np.arange(log.size) - np.repeat(starts, lengths)
    thread = np.empty(log.size, dtype=np.int64)
    thread[order] = np.repeat(np.arange(len(starts)), lengths)

    groups = log.group_of(np.arange(log.size)).astype(np.uint64)
    looks = mix(slot.astype(np.uint64), groups, colours)
    wires = mix(slot[sources].astype(np.uint64), slot[targets].astype(np.uint64), codes)
    signature = np.zeros(len(starts), dtype=np.uint64)
    np.add.at(signature, thread, looks)
    np.add.at(signature, thread[sources], wires)

    free = np.ones(len(starts), dtype=bool)
    free[thread[log.frozen[: log.size]]] = False
    alike: dict[tuple[int, int], list[int]] = {}
    for number in np.flatnonzero(free):
        key = int(signature[number]), int(lengths[number])
        alike.setdefault(key, []).append(int(number))
    return [
        [order[starts[numbers] + place] for place in range(length)]
        for (_, length), numbers in alike.items()
        if len(numbers) > 1
    ]


def _coloured(log: TraceLog, places: Sequence[Sequence[Location]]) -> Words:
    """Return the colours, told further apart by the places in blocks."""
    colours = log.colours[: log.size].copy()
    for place in (place for own in places for place in own):
        serial = np.uint64(log.next_serial())
        ends = (place.target,) if place.source is None else (place.target, place.source)
        for side, ids in enumerate(ends):
            part = np.zeros(len(ids), dtype=np.uint64)
            if place.source is not None and not is_diagonal(place):
                parts = place.view.shape[0]
                part = np.repeat(np.arange(parts), len(ids) // parts).astype(np.uint64)
            words = mix(serial, np.uint64(side + 1), part)
            np.add.at(colours, ids, words)
    return colours


def _edges(
    log: TraceLog, places: Sequence[Sequence[Location]]
) -> tuple[Ids, Ids, Words]:
    """Return all one-to-one joins: sources, targets, and what kind each is."""
    found: list[tuple[Ids, Ids, Words]] = []
    for join in log.joins:
        code = mix(np.uint64(log.next_serial()), np.uint64(join.code))
        found.append((join.source, join.target, np.repeat(code, len(join.source))))
    for place in (place for own in places for place in own):
        if place.source is not None and is_diagonal(place):
            width = place.view.shape[1]
            code = mix(np.uint64(log.next_serial()))
            found.append(
                (
                    np.repeat(place.source, width),
                    place.target,
                    np.repeat(code, len(place.target)),
                )
            )
    if not found:
        none = np.arange(0)
        return none, none, none.astype(np.uint64)
    sources, targets, codes = zip(*found, strict=True)
    return np.concatenate(sources), np.concatenate(targets), np.concatenate(codes)


def is_diagonal(place: Location) -> bool:
    """Whether a block joins each source to targets of its own."""
    shape = place.view.shape
    return place.source is not None and shape[0] > 1 and shape[2] == 1
