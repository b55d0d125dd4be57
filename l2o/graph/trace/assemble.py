"""Turns a `TraceLog` into a `NeuralGraph`."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from l2o.graph.isolate import isolate
from l2o.graph.neural_graph import (
    NeuralGraph,
    NeuronGroup,
    Neurons,
    NodeParameter,
    Role,
    Symmetry,
    Tie,
    Unplaced,
    WeightBlock,
)

from .exchange import exchangeable, is_diagonal
from .locations import Location, settle
from .trace_log import Ids, Join, TraceLog


def assemble(
    log: TraceLog, parameters: Mapping[str, Tensor], *, source: str
) -> NeuralGraph:
    """Return the graph of a traced network."""
    names = list(parameters)
    places, reasons = settle(log, list(parameters.values()))
    sets = exchangeable(log, places)
    visible = [join for join in log.joins if join.kind is not None]
    builder = _Builder(log, places, visible)
    groups = builder.groups()
    blocks, nodes = builder.blocks(names)
    isolated = isolate(
        {
            names[number]: tuple(parameters[names[number]].shape)
            for number in sorted(reasons)
        },
        first=len(groups),
    )
    return NeuralGraph(
        shapes={name: tuple(tensor.shape) for name, tensor in parameters.items()},
        groups=(*groups, *isolated.groups),
        blocks=(*blocks, *isolated.blocks),
        node_parameters=(*nodes, *isolated.node_parameters),
        ties=tuple(builder.ties()),
        symmetries=tuple(builder.symmetries(sets)),
        unplaced=tuple(
            Unplaced(parameter=names[number], reason=reasons[number])
            for number in sorted(reasons)
        ),
        source=source,
    )


class _Builder:
    """Turns neuron numbers into selections of groups."""

    def __init__(
        self, log: TraceLog, places: Sequence[Sequence[Location]], ties: Sequence[Join]
    ) -> None:
        self._log = log
        self._places = places
        self._ties = ties
        ends = [place.target for own in places for place in own]
        ends += [p.source for own in places for p in own if p.source is not None]
        ends += [ids for join in ties for ids in (join.source, join.target)]
        used = np.concatenate(ends) if ends else np.arange(0)
        kept = np.unique(log.group_of(used)) if len(used) else np.arange(0)
        self._kept = kept.tolist()
        self._number = {group: number for number, group in enumerate(self._kept)}

    def groups(self) -> list[NeuronGroup]:
        """Return the groups that something touches."""
        depths = self._depths()
        top = max(depths.values(), default=0) or 1
        found = []
        for number in self._kept:
            draft = self._log.groups[number]
            found.append(
                NeuronGroup(
                    name=draft.name,
                    size=draft.size,
                    role=self._role(number),
                    depth=depths[number] / top,
                    operations=tuple(draft.operations),
                )
            )
        return found

    def _role(self, number: int) -> Role:
        draft = self._log.groups[number]
        ids = range(draft.start, draft.start + draft.size)
        if all(neuron in self._log.ends for neuron in ids):
            return "output"
        return "input" if draft.is_input else "hidden"

    def _depths(self) -> dict[int, int]:
        """Return the longest way from an input, in dense blocks; loops count once."""
        steps: dict[int, list[tuple[int, int]]] = {}
        for place in (place for own in self._places for place in own):
            if place.source is None:
                continue
            (target,) = set(self._log.group_of(place.target[:1]).tolist())
            for source in set(self._log.group_of(place.source).tolist()):
                steps.setdefault(target, []).append(
                    (source, int(not is_diagonal(place)))
                )
        for join in self._ties:
            if join.kind == "dot":
                continue
            (target,) = set(self._log.group_of(join.target[:1]).tolist())
            for source in set(self._log.group_of(join.source).tolist()):
                steps.setdefault(target, []).append((source, 0))
        depth: dict[int, int] = {}
        for number in self._kept:
            before = [
                depth[source] + step
                for source, step in steps.get(number, ())
                if source in depth
            ]
            depth[number] = max(before, default=0)
        return depth

    def blocks(
        self, names: Sequence[str]
    ) -> tuple[list[WeightBlock], list[NodeParameter]]:
        """Return the weight blocks and the node parameters."""
        blocks, nodes = [], []
        for name, own in zip(names, self._places, strict=True):
            for place in own:
                if place.source is None:
                    if place.is_alias:
                        continue
                    (neurons,) = self._select(place.target)
                    nodes.append(
                        NodeParameter(parameter=name, neurons=neurons, view=place.view)
                    )
                    continue
                (target,) = self._select(place.target)
                (source,) = self._select(place.source)
                blocks.append(
                    WeightBlock(
                        parameter=name,
                        source=source,
                        target=target,
                        view=place.view,
                        is_alias=place.is_alias,
                        operation=place.operation,
                    )
                )
        return blocks, nodes

    def ties(self) -> list[Tie]:
        """Return the visible ties, split by group."""
        found = []
        for join in self._ties:
            owner = self._log.group_of(join.source)
            goal = self._log.group_of(join.target)
            for pair in np.unique(np.stack([owner, goal]), axis=1).T:
                chosen = (owner == pair[0]) & (goal == pair[1])
                (source,) = self._select(join.source[chosen])
                (target,) = self._select(join.target[chosen])
                assert join.kind is not None
                found.append(Tie(kind=join.kind, source=source, target=target))
        return found

    def symmetries(self, sets: Sequence[Sequence[Ids]]) -> list[Symmetry]:
        """Return the symmetries, without neurons that nothing touches."""
        found = []
        for members in sets:
            seen = [
                self._select(ids)[0]
                for ids in members
                if int(self._log.group_of(ids[:1])[0]) in self._number
            ]
            if seen:
                found.append(Symmetry(tuple(seen)))
        return found

    def _select(self, ids: Ids) -> list[Neurons]:
        """Return neurons as selections, one per group."""
        owners = self._log.group_of(ids)
        found = []
        for group in dict.fromkeys(owners.tolist()):
            index = ids[owners == group] - self._log.groups[group].start
            found.append(Neurons(self._number[group], _compressed(index)))
        return found


def _compressed(index: Ids) -> range | tuple[int, ...]:
    """Return indices as a range where they are equally spaced."""
    if len(index) == 1:
        return range(int(index[0]), int(index[0]) + 1)
    step = int(index[1] - index[0])
    if step and (np.diff(index) == step).all():
        stop = int(index[-1]) + (1 if step > 0 else -1)
        return range(int(index[0]), stop, step)
    return tuple(index.tolist())
