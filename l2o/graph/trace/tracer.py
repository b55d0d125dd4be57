"""The steps that all operator rules are made of.

Everything rests on one invariant. Let the exchangeable neurons change places, and the
parameter entries with them: then every tensor of the forward pass keeps its values, but
for entries that follow their neurons along the neuron axes. Whatever might break it
tells neurons apart (`TraceLog.distinguish`) or forbids them to move
(`TraceLog.freeze`).
"""

import copy
import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from l2o.graph.neural_graph import Operation

from .entry_runs import entry_runs
from .label_store import LabelStore
from .labels import Codes, Labelled, Labels
from .neuron_joins import NeuronJoins, Position
from .trace_log import Ids, TraceLog, Use, axes_of, first_order


class Tracer:
    """Neurons and parameters of one forward pass, as far as it has run."""

    def __init__(self, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
        self.names = list(names)
        self.begin(parameters)
        self.log = TraceLog(self.store.bases)
        self.unknown: dict[str, None] = {}
        """Operators without a rule that met neurons or parameters."""
        self._targets: dict[object, tuple[Tensor, set[bytes]]] = {}
        self._inputs: dict[object, Tensor] = {}
        self.joins = NeuronJoins(self.log, self._position)
        """The neurons that met."""

    def begin(self, parameters: Sequence[Tensor]) -> None:
        """Start a pass: nothing is known of any tensor but the parameters."""
        self.store = LabelStore(parameters, self._lose)
        self._parameters = list(parameters)
        self._position = Position()
        self.start_call()

    def again(self, parameters: Sequence[Tensor]) -> "Tracer":
        """Return a copy with which another pass can begin; this one stays unchanged."""
        other = copy.copy(self)
        other.log = self.log.copy()
        other.unknown = dict(self.unknown)
        other._targets = {k: (ids, set(v)) for k, (ids, v) in self._targets.items()}
        other._inputs = dict(self._inputs)
        other.begin(parameters)
        other._position.repeats = bool(self.log.uses)
        other.joins = NeuronJoins(other.log, other._position, self.joins)
        return other

    def end_pass(self) -> None:
        """Forget tensors: only neurons and numbers stay."""
        self._parameters = [
            torch.empty_strided(p.shape, p.stride(), device="meta")
            for p in self._parameters
        ]
        self.store = LabelStore(self._parameters, self._lose)

    def start_call(self) -> None:
        """Forget what the last operator did."""
        self.weight: str | None = None
        """Name of the weight that the operator used."""
        self.notes: list[tuple[tuple[Tensor, ...], Operation]] = []
        """What it recorded on neurons."""
        self.has_numbered = False
        """Whether it gave numbers to a tensor without neurons."""

    def repeat_call(
        self, weight: str | None, notes: Sequence[tuple[tuple[Tensor, ...], Operation]]
    ) -> None:
        """Repeat what an operator recorded for tensors with the same labels."""
        if weight is not None:
            self._position.repeats, self._position.last = True, weight
        for planes, operation in notes:
            self.note_once(planes, operation)

    @property
    def last(self) -> str:
        """Name of the last weight used."""
        return self._position.last

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters; after a pass only their shapes and strides."""
        return self._parameters

    # --- parameters -----------------------------------------------------------------

    def label(self, codes: Codes) -> str:
        """Return a name for what a weight feeds."""
        name = self.names[self.log.parameters_of(codes)[0]]
        prefix, _, leaf = name.rpartition(".")
        self._position.last = prefix if leaf == "weight" and prefix else name
        return self._position.last

    def targets(
        self,
        identity: object,
        codes: Codes,
        size: int,
        sources: Sequence[Ids | None],
        operation: Operation,
    ) -> tuple[Tensor, bool]:
        """Return the neurons that a weight feeds; the same ones at every use.

        Args:
            identity: equal for equal entries in equal order.
            codes: the entries, for a name.
            size: number of neurons.
            sources: what the weight reads, part by part.
            operation: the call.

        Returns:
            The neurons, and whether this very tracer is new.
        """
        key = (operation.name, identity)
        wires = b"".join(b"-" if ids is None else ids.tobytes() for ids in sources)
        if key not in self._targets:
            self._position.repeats = False
            self._targets[key] = self.log.add_group(self.label(codes), size), set()
        else:
            self._position.repeats = True
        self.weight = self._position.last
        target, known = self._targets[key]
        is_new = wires not in known
        known.add(wires)
        return target, is_new

    def use(
        self,
        codes: Codes,
        target: Ids,
        source: Ids | None = None,
        operation: Operation | None = None,
    ) -> None:
        """Record that affine entries lie on neurons or on edges."""
        (parameter,) = self.log.parameters_of(codes)[:1]
        self.log.use(
            Use(
                parameter=parameter,
                codes=codes,
                target=target,
                source=source,
                operation=operation,
            )
        )

    def attach(
        self, plane: Tensor, codes: Codes, operation: Operation, *, scales: bool
    ) -> Tensor:
        """Give each neuron of a plane its entries of a parameter.

        Args:
            plane: the neurons.
            codes: the entries, of the same rank.
            operation: what the entries do.
            scales: whether they multiply, which makes a new group behind a diagonal
                block; otherwise they become a node parameter.

        Returns:
            The neurons that hold the result.
        """
        if codes.is_summary:
            return self._give_up(plane, codes, "it enters only through a reduction")
        dense, lines = codes.tensor(), axes_of(plane)
        shared = lines - axes_of(dense)
        if shared:
            self.log.distinguish(plane, lines - shared)
            self.log.share(codes, "each of its entries serves several neurons")
            return plane
        order = sorted(lines)
        rest = [axis for axis in range(plane.dim()) if axis not in lines]
        ids = plane.permute(order + rest).reshape(-1)
        cells = [dense.shape[axis] for axis in rest if dense.shape[axis] > 1]
        entries = dense.permute(order + rest).reshape(len(ids), *cells)
        if codes.width > 1:
            entries = entries[..., None] + torch.arange(codes.width)
            cells.append(codes.width)
        if bool((ids < 0).any()):
            fixed = self.log.add_group(f"{self._position.last} constants", len(ids))
            self.log.freeze(fixed)
            ids = torch.where(ids < 0, fixed, ids)
        neurons, rank = first_order(ids.numpy())
        places = np.argsort(rank, kind="stable")
        if (
            len(ids) % len(neurons)
            or (np.bincount(rank) != len(ids) // len(neurons)).any()
        ):
            return self._give_up(plane, codes, "its neurons own unequal shares of it")
        entries = entries[torch.from_numpy(places)]
        entries = entries.reshape(len(neurons), -1, *cells)
        found = entry_runs(self.log, neurons, entries)
        if found is None:
            return self._give_up(plane, codes, "its entries are used out of order")
        if not scales:
            for places, piece in found:
                self.use(piece, neurons[places], None, operation)
            return plane
        identity = tuple((p.offset, p.strides, p.shape) for _, p in found)
        target, is_new = self.targets(
            identity, found[0][1], len(neurons), [neurons], operation
        )
        for places, piece in found if is_new else ():
            sizes, lines = piece.shape, piece.strides
            diagonal = Codes(
                (sizes[0], 1, 1, *sizes[1:]), (lines[0], 0, 0, *lines[1:]), piece.offset
            )
            goal = target.numpy()[places]
            self.use(diagonal, goal, neurons[places], operation)
        moved = target[torch.from_numpy(rank)].reshape([plane.shape[a] for a in order])
        return moved.reshape(plane.shape)

    def promote(self, seen: Labelled, axis: int) -> Labelled:
        """Make neurons of a parameter that is used as if it were an activation."""
        assert seen.codes is not None
        codes, size = seen.codes, seen.shape[axis]
        plane = self.log.add_group(self.label(codes), size)
        plane = plane.view([-1 if a == axis else 1 for a in range(len(seen.shape))])
        kept = self.attach(plane, codes, Operation(name="value"), scales=False)
        return Labelled(seen.value, Labels(planes=(kept,), depends=True))

    def _give_up(self, plane: Tensor, codes: Codes, reason: str) -> Tensor:
        self.log.unplace(codes, reason)
        self.log.freeze(plane)
        return plane

    # --- neurons --------------------------------------------------------------------

    def admit(self, plane: Tensor, other: Labelled) -> None:
        """Combine neurons with values of their own: unequal ones tell them apart."""
        along = other.varies_along(sorted(axes_of(plane)))
        if along:
            self.log.distinguish(plane, along)

    def mean(self, plane: Tensor, axes: Sequence[int]) -> None:
        """Let a symmetric function read sets of neurons along some axes."""
        self.log.distinguish(plane, axes_of(plane) - set(axes))

    def bundle(self, plane: Tensor, axes: Sequence[int]) -> bool:
        """Whether neurons along some axes should move as one, in many small sets.

        A function of each set leaves two kinds of exchange: within the sets, or of
        whole sets. Where sets are few and large (the units of a head) the first moves
        more, where they are many and small (the branches of a channel) the second.
        """
        lines = axes_of(plane)
        inner = [plane.shape[axis] for axis in lines & set(axes)]
        outer = [plane.shape[axis] for axis in lines - set(axes)]
        return bool(outer) and math.prod(outer) > math.prod(inner)

    def _lose(self, labels: Labels) -> None:
        """Give up what can no longer be followed."""
        for plane in labels.planes:
            self.log.freeze(plane)
        if labels.codes is not None:
            self.log.unplace(
                labels.codes, "it is read in a way that cannot be followed"
            )

    def end(self, plane: Tensor) -> None:
        """Note neurons that leave the network: its outputs."""
        self.log.freeze(plane)
        self.log.ends.update(plane[plane >= 0].unique().tolist())

    def forbid(self, seen: Labelled, reason: str) -> None:
        """Give up what meets neurons in a place where it belongs to none."""
        for plane in seen.planes:
            self.log.freeze(plane)
        if seen.codes is not None:
            self.log.share(seen.codes, reason)

    def lose(self, seen: Labelled, operator: str) -> None:
        """Give up what an operator without a rule reads."""
        if seen.labels.is_plain:
            return
        self.unknown[operator] = None
        for plane in seen.planes:
            self.log.freeze(plane)
        if seen.codes is not None:
            reason = (
                f"the operator {operator!r} uses it, which the tracer cannot follow"
            )
            self.log.unplace(seen.codes, reason)

    def note_once(self, planes: Iterable[Tensor], operation: Operation) -> None:
        """Record an operation on neurons, but only once in a loop."""
        self.notes.append((tuple(planes), operation))
        if not self._position.repeats:
            self.log.note(planes, operation)

    def plain(
        self, seen: Labelled, axes: Sequence[int], name: str, reader: object
    ) -> Tensor:
        """Number the entries of a tensor without neurons along some axes: inputs.

        The neurons are frozen. What the same reader reads at another time, and all
        pieces of one input of the network, get the same numbers.

        Args:
            seen: the tensor.
            axes: the axes along which entries get numbers of their own; repetition by
                `expand` numbers nothing.
            name: name of the new group.
            reader: identifies the weight that reads the tensor.

        Returns:
            Numbers that broadcast to the tensor.
        """
        self.has_numbered, rank = True, len(seen.shape)
        wide = [a for a in axes if seen.value.stride(a) or seen.shape[a] == 1]
        sizes = [seen.shape[a] if a in wide else 1 for a in range(rank)]
        is_bare = seen.labels.is_plain and seen.labels.depends
        home = None
        if is_bare and len(wide) == 1:
            home = self.store.whole_axis(seen.value, wide[0])
        key = (reader, name, tuple(sizes))
        if home is not None and home.number is not None:
            key = (home.number, home.axis, name, tuple(sizes))
        if key not in self._inputs:
            size = math.prod(sizes)
            self._inputs[key] = self.log.add_group(name, size, frozen=True)
        plane = self._inputs[key].reshape(sizes)
        if home is not None:
            self.store.label_whole(home, self._inputs[key])
        elif seen.codes is None and seen.labels.depends:
            labels = dataclasses.replace(seen.labels, planes=(*seen.planes, plane))
            self.store.write(seen.value, labels)
        return plane
