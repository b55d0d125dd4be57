"""Which neurons own which entries of parameters, in affine runs."""

import numpy as np
import torch
from torch import Tensor

from .labels import Codes, fit
from .trace_log import Ids, TraceLog, first_order


def entry_runs(
    log: TraceLog, neurons: Ids, entries: Tensor
) -> list[tuple[Ids, Codes]] | None:
    """Return which neurons own which entries `[neuron, *cells]`, in affine runs.

    Returns:
        None if the entries of one parameter are not affine.
    """
    owners = log.owners_of(entries.numpy())
    owner = owners.reshape(len(neurons), -1)[:, 0]
    found = []
    for number in np.unique(owner):
        rows = np.flatnonzero(owner == number)
        own = fit(entries[torch.from_numpy(rows)])
        if own is None or (owners[rows] != number).any():
            return None
        offset, strides = own
        kept = [0, *(a for a in range(1, entries.dim()) if strides[a] != 0)]
        shape = (len(rows), *(entries.shape[a] for a in kept[1:]))
        whole = Codes(shape, tuple(strides[a] for a in kept), offset)
        runs = _alike(log, neurons[rows])
        found += [(rows[places], _part(whole, places)) for places in runs]
    return found


def _alike(log: TraceLog, neurons: Ids) -> list[Ids]:
    """Split places into equally spaced ones with neurons of one group."""
    groups, found = log.group_of(neurons), []
    if (groups == groups[:1]).all():
        return [np.arange(len(neurons))]
    for group in first_order(groups)[0]:
        places = np.flatnonzero(groups == group)
        breaks = np.flatnonzero(np.diff(np.diff(places), prepend=0)[1:]) + 2
        found += np.split(places, breaks) if len(places) > 2 else [places]
    return found


def _part(whole: Codes, places: Ids) -> Codes:
    """Return the entries of some equally spaced neurons."""
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    shape = (len(places), *whole.shape[1:])
    strides = (step * whole.strides[0], *whole.strides[1:])
    return Codes(shape, strides, whole.offset + int(places[0]) * whole.strides[0])
