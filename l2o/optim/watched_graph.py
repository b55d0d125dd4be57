"""The neural graph that an optimizer reads, from its first guess to its trace."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from l2o.graph import NeuralGraph
from l2o.graph.build import graph_so_far
from l2o.graph.trace import NetworkTrace
from l2o.graph.trace.locations import NEVER_USED, PARTLY_USED
from l2o.rule.rule import AbstractRule

from .capture import Capture, warn_of_loose
from .checks import check_device
from .names import is_place, name_tensors, parameters_of

_LATER_PASSES = 3
"""Passes after the first that may complete the graph, by experts it did not reach."""
_LEAST_PLACED = 0.8
"""Share of the parameters below which an unknown place is worth a warning."""
_WATCHES = "watches"
"""Key of a copy for whether the original had not seen its modules run."""


class WatchedGraph:
    """The graph over the tensors that an optimizer reads, as far as it is known.

    Shapes give a first graph. Unless a graph was passed, module calls are watched until
    the first step, and the graph of their trace replaces the first one. Copies and
    pickles keep graph and tensors, and need `belong_to`.

    Args:
        owner: the optimizer.
        rule: checks that it can use a graph.
        model: module whose other parameters are read too, or None.
        given: graph over exactly the parameters, or None.
    """

    def __init__(
        self,
        owner: Optimizer,
        rule: AbstractRule,
        model: nn.Module | None,
        given: NeuralGraph | None,
    ) -> None:
        self.belong_to(owner)
        self._rule = rule
        self._model = model
        self._given = given
        self.graph: NeuralGraph
        """The graph, once `find` has returned."""
        self.tensors: dict[str, Tensor] = {}
        """Name to tensor, for all that the rule reads."""
        self.names: dict[Tensor, str] = {}
        """The same the other way round."""
        self._capture: Capture | None = None
        self._passes: NetworkTrace | None = None
        self._passes_left = _LATER_PASSES
        self._has_warned = False

    def belong_to(self, owner: Optimizer) -> None:
        """Read the groups of this optimizer from now on, without keeping it alive."""
        self._owner = weakref.ref(owner)

    def find(self, names: Mapping[int, str], device: torch.device) -> None:
        """Name every tensor, find what shapes prove, and watch for the modules.

        Args:
            names: `id` of a tensor to its name, as far as known.
            device: where all tensors must lie.

        Raises:
            ValueError: if a tensor lies elsewhere, or the passed graph or model does
                not fit the parameters.
        """
        before = self.tensors
        tensors = name_tensors(self._groups(), self._model, names, before)
        for name, tensor in tensors.items():
            check_device(name, tensor, device)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if self._given is None:
            known = self.graph if before else None
            is_named = not all(map(is_place, shapes))
            graph = graph_so_far(shapes, known, is_named=is_named)
        elif self._given.shapes == shapes:
            graph = self._given
        else:
            raise ValueError(
                "NeuralGraphOpt needs a graph over exactly its parameters; got a graph "
                f"of {self._given.shapes} for {shapes}. Build it from the same "
                "parameters, under the same names."
            )
        if tensors:
            self._rule.check(graph)
        self._use(graph, tensors)
        self._passes = None  # of other tensors
        if self._given is None:
            self._watch()

    def find_again(self, device: torch.device) -> None:
        """Find the tensors again after some were exchanged inside a group.

        accelerate does so when it shards a model. Unknown tensors would silently not
        be trained.
        """
        capture, self.tensors = self._capture, {}
        self.find({}, device)
        if capture is not None and capture.has_seen:
            self._capture = capture

    def look(self, *, steps: bool = False) -> bool:
        """Take the traced graph once the modules have run; a step ends the watch.

        But where no module has run yet, a step of size zero does not end it: torch's
        distributed checkpoints take one to make a state that they can load into.

        Args:
            steps: whether a step is about to be taken.

        Returns:
            Whether graph and tensors are new.
        """
        capture = self._capture
        if capture is None:
            return False
        has_seen = capture.has_seen
        is_new = has_seen and capture.is_fresh
        if is_new:
            is_first = capture.passes is None
            tensors = self._named_by(capture) if is_first else self.tensors
            graph = capture.read(tensors, self._rule.check)
            if graph is None:
                self._has_warned = True  # the warning of the failure says it
                shapes = {name: tuple(t.shape) for name, t in tensors.items()}
                graph = graph_so_far(shapes, self.graph, is_named=True)
            self._use(graph, tensors)
        if steps and (has_seen or not self._is_idle()):
            capture.close()
            self._capture = None
            if capture.traced is not None:
                is_complete = capture.traced.is_complete
                self._passes = None if is_complete else capture.traced
            self._warn_of_loose(capture.title if has_seen else "")
        elif has_seen and not capture.is_waiting:
            self._capture = None
        return is_new

    def watch_again(self, moving: Iterable[Tensor]) -> None:
        """Watch one more pass if a parameter moves that no pass has used."""
        if self._passes is None or not self._passes_left:
            return
        loose = {
            item.parameter
            for item in self.graph.unplaced
            if item.reason in (NEVER_USED, PARTLY_USED)
        }
        if any(self.names.get(param) in loose for param in moving):
            self._passes_left -= 1
            self._watch(self._passes)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs; the trace is of the original's tensors."""
        kept = dict(vars(self))
        for name in ("_owner", "_capture", "_passes"):
            del kept[name]
        return {**kept, _WATCHES: self._capture is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which watches module calls by itself if its original did."""
        watches = state.pop(_WATCHES)
        vars(self).update(state)
        self._passes = self._capture = None
        if watches:
            self._watch()

    def _watch(self, passes: NetworkTrace | None = None) -> None:
        self._capture = Capture(WeakMethod(self._read_tensors), passes)

    def _is_idle(self) -> bool:
        """Whether a step would move nothing."""
        return all(float(group["lr"]) == 0 for group in self._groups())

    def _groups(self) -> list[dict[str, Any]]:
        owner = self._owner()
        return [] if owner is None else owner.param_groups

    def _use(self, graph: NeuralGraph, tensors: dict[str, Tensor]) -> None:
        """Read these tensors by this graph from now on."""
        self.graph = graph
        self.tensors = tensors
        self.names = {tensor: name for name, tensor in tensors.items()}

    def _read_tensors(self) -> list[Tensor]:
        """Return all tensors that the rule reads, as they are now."""
        own = parameters_of(self._groups())
        others = () if self._model is None else self._model.parameters()
        return [tensor for tensor in dict.fromkeys((*own, *others)) if tensor.numel()]

    def _named_by(self, capture: Capture) -> dict[str, Tensor]:
        """Return the tensors, those without names of their own under a capture's."""
        known = {n: tensor for n, tensor in self.tensors.items() if not is_place(n)}
        return name_tensors(self._groups(), self._model, capture.names(), known)

    def _warn_of_loose(self, title: str) -> None:
        """Say once if much of the graph is unknown, where anything can be joined."""
        has_maps = any(isinstance(t, nn.Parameter) and t.ndim > 1 for t in self.names)
        is_loose = has_maps and self.graph.placed_share < _LEAST_PLACED
        if is_loose and not self._has_warned:
            self._has_warned = True
            warn_of_loose(self.graph, title, stacklevel=8)
