"""`NeuralGraphOpt`: the `torch.optim` shell around the pure step."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from l2o.graph import NeuralGraph
from l2o.graph.build import graph_so_far
from l2o.rule.cached_outputs import check_structure_every
from l2o.rule.checkpoint import rule_hash
from l2o.rule.rule import AbstractRule
from l2o.rule.safety import SafetyConfig
from l2o.rule.state import State
from l2o.rule.step import Hyper, complete_state

from .averaged_weights import AVERAGE, KEYS, advance_average, swapped_in
from .capture import Capture, warn_of_loose
from .checks import (
    BETAS,
    check_device,
    check_gradient,
    check_group,
    check_settings,
    check_state_dtype,
    found_rule,
    listed_params,
    warn_of_betas,
)
from .diagnostics import Diagnostics, Tally
from .distributed import gathered, is_sharded, spread_like
from .in_place import step_in_place
from .names import is_place, name_tensors, names_in, parameters_of
from .resume import wide_loading

_SAFETY = SafetyConfig()

_COPIED = (
    *("defaults", "state", "param_groups", "rule", "_device", "_given_graph"),
    *("_graph", "_has_average", "_is_averaged", "_is_compiled", "_is_ready"),
    *("_model", "_names"),
    *("_owns_rule", "_safety", "_said", "_state_dtype", "_structure_every"),
    *("_tally", "_tensors"),
)
"""Attributes that a deep copy or a pickle of the optimizer carries."""
_WATCHES = "watches"
"""Key of a copied optimizer for whether it has not seen its modules run."""
_LEAST_PLACED = 0.8
"""Share of the parameters below which an unknown place is worth a warning."""


class NeuralGraphOpt(Optimizer):
    """Train a network with a learned optimizer that sees it as a neural graph.

    Each step lays weights, gradients and momenta on the network's graph, lets the
    rule predict one update a parameter, and adds it. It needs no learning rate.

    Args:
        params: what to optimise, as every `torch.optim` optimizer takes it: tensors,
            groups, or (name, tensor) pairs, in the order of the layers.
        lr: multiplier of the rule's updates, dimensionless; 1 is as meta-trained. A
            tensor of one element will do.
        weight_decay: decoupled decay in AdamW's convention; a step shrinks a
            parameter by the factor `1 - lr * rule.step_size * weight_decay`.
        maximize: whether to climb instead of descend.
        rule: the name of a shipped rule, the path of a rule file, or a rule. A rule
            object must lie on the parameters' device; it is shared, not copied.
        model: a module that owns the parameters; its other parameters are read, too.
            Without it, the modules that hold the parameters are found when they are
            first called. That forward pass is traced, and gives the graph.
        graph: the graph itself, over all of `params` by name ("0", "1", ... where
            they have none).
        compile: whether `torch.compile` fuses the step: a minute or more at the first
            step, about twice as fast from then on.
        safety: when a step is skipped or an update clipped; `diagnostics` tells how
            often. None takes every step as the rule proposes it.
        state_dtype: `torch.bfloat16` halves the state, 12 bytes a parameter instead of
            24: averages are computed in float32 and rounded stochastically, by noise
            that depends on step and name alone. None keeps float32 or wider.
        structure_every: run the graph network every so many steps, and mix fresh
            directions by its last outputs in between: cheaper, at 16 bytes a parameter.

        average: keep an average of the weights themselves as well, for `averaged` and
            `use_average`: another float per parameter. It remembers a tenth of the run
            so far, whatever its length, and usually does better than the weights that
            the steps visit.

    Raises:
        TypeError: if a parameter is no tensor, or is complex or integer.
        ValueError: if there is no parameter, `lr` or `weight_decay` is negative,
            devices differ, model or graph do not fit the parameters, `state_dtype`
            is another, or the rule keeps a state of its own, or `structure_every` does
            not suit the rule.
        FileNotFoundError: if `rule` names neither a shipped rule nor a file.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = NeuralGraphOpt(model.parameters())
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()

    Reference:
        Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143,
        section 4.3.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        rule: str | Path | AbstractRule = "ng-gnn",
        model: nn.Module | None = None,
        graph: NeuralGraph | None = None,
        compile: bool = False,
        safety: SafetyConfig | None = _SAFETY,
        state_dtype: torch.dtype | None = None,
        structure_every: int = 1,
        average: bool = False,
    ) -> None:
        check_settings(lr=lr, weight_decay=weight_decay)
        names = names_in(params)
        params = listed_params(params)
        self._model = model
        self._capture: Capture | None = None
        self._tensors: dict[str, Tensor] = {}
        self._given_graph = graph
        self._is_compiled = compile
        self._safety = safety
        self._state_dtype = state_dtype
        self._structure_every = structure_every
        self._has_average = average
        self._is_averaged = False
        self._tally = Tally((), (safety or _SAFETY).max_update)
        self._is_ready = False
        self._said: set[str] = set()
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "betas": BETAS,
        }
        super().__init__(params, defaults)
        self._owns_rule = isinstance(rule, str | Path)
        self.rule = found_rule(rule)
        check_state_dtype(state_dtype, self.rule)
        check_structure_every(structure_every, self.rule, is_compiled=compile)
        self._settle()
        self._write_rule_hash()
        self._set_graph(names)
        self._is_ready = True

    @property
    def keeps_average(self) -> bool:
        """Whether the optimizer was built with `average=True`."""
        return self._has_average

    @property
    def graph(self) -> NeuralGraph:
        """The neural graph that the rule reads."""
        self._look()
        return self._graph

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; the graph is found again with its parameters in it.

        Raises:
            ValueError: if the optimizer was given a graph that lacks them.
        """
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1])
            if self._is_ready:
                self._look()
                self._set_graph({})
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @override
    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride] - torch overloads it
        self, closure: Callable[[], float | Tensor] | None = None
    ) -> float | Tensor | None:
        """Update the parameters in place from their gradients.

        Parameters without a gradient keep their value and their state.

        Args:
            closure: computes the loss again and its gradients; None if `backward` was
                called already.

        Returns:
            What `closure` returned.

        Raises:
            TypeError: if a gradient is sparse.
            ValueError: if parameters lie on several devices, or apart from a rule that
                was passed as an object; or within `averaged`.
        """
        if self._is_averaged:
            raise ValueError(
                "NeuralGraphOpt.step needs the weights that the last step left; got "
                "the averaged ones. Leave `with optimizer.averaged()` before stepping."
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [p for p in parameters_of(self.param_groups) if p.grad is not None]
        if moving and moving[0].device != self._device:
            self._settle()
        if any(param.numel() and param not in self._names for param in moving):
            self._find_again()
        if not any(param in self._names for param in moving):
            return loss
        self._look(steps=True)
        grads, hyper, state = self._gather()
        params = {name: gathered(tensor) for name, tensor in self._tensors.items()}
        kind = self._device.type
        has_autocast = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
            state = complete_state(self.rule, params, state, self._state_dtype)
            new_state, report = self._step(
                self.rule, self._graph, params, grads, state, hyper
            )
        if report is not None:
            self._tally.add(report)
        for name in grads:
            param = self._tensors[name]
            if is_sharded(param):
                param.copy_(spread_like(params[name], param))
            before = self.state.get(param, {})
            item = {
                key: spread_like(value, param) for key, value in new_state[name].items()
            }
            item.update({key: before[key] for key in KEYS if key in before})
            if self._has_average or AVERAGE in item:
                advance_average(
                    param, item, None if report is None else report.is_sound
                )
            self.state[param] = item
        return loss

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the parameters their averages for a while, to evaluate or to save them.

        Parameters that never moved keep their value. Running statistics of batch norm
        belong to the weights that the steps visit: let
        `torch.optim.swa_utils.update_bn` measure them again, within the context or
        on a copy of the model. A checkpoint to go on from is saved outside.

        Raises:
            ValueError: if the optimizer was built without `average=True`, or within
                another `averaged`.

        Example:
            >>> model = torch.nn.Linear(3, 2)
            >>> optimizer = NeuralGraphOpt(model.parameters(), average=True)
            >>> model(torch.ones(1, 3)).sum().backward()
            >>> optimizer.step()
            >>> with optimizer.averaged():
            ...     outputs = model(torch.ones(1, 3))

        Reference:
            Polyak and Juditsky, 1992, "Acceleration of stochastic approximation by
            averaging". The memory in proportion to the run so far is ours.
        """
        if self._is_averaged:
            raise ValueError(
                "NeuralGraphOpt.averaged needs the weights that the last step left; "
                "got a call within another one. Leave that first."
            )
        pairs = self._averages("averaged")
        self._is_averaged = True
        try:
            with swapped_in(pairs):
                yield
        finally:
            self._is_averaged = False

    def use_average(self) -> None:
        """Leave the averages in the parameters, for good; call it once at the end.

        Raises:
            ValueError: as for `averaged`.
        """
        for param, value in self._averages("use_average"):
            with torch.no_grad():
                param.copy_(value)

    def _averages(self, caller: str) -> list[tuple[Tensor, Tensor]]:
        """Return the parameters that have an average, each with it."""
        params = parameters_of(self.param_groups)
        found = [
            (p, self.state[p][AVERAGE]) for p in params if AVERAGE in self.state[p]
        ]
        if not (found or self._has_average):
            raise ValueError(
                f"NeuralGraphOpt.{caller} needs averages; got an optimizer that keeps "
                "none. Build it with average=True."
            )
        return found

    def diagnostics(self) -> Diagnostics:
        """Return what the safety net skipped and clipped, and the last sizes.

        Reading waits for the device; the steps themselves never do.

        Raises:
            ValueError: if the optimizer was built with `safety=None`.

        Example:
            >>> model = torch.nn.Linear(3, 2)
            >>> optimizer = NeuralGraphOpt(model.parameters())
            >>> model(torch.full((1, 3), float("nan"))).sum().backward()
            >>> optimizer.step()
            >>> optimizer.diagnostics().skipped
            1
        """
        if self._safety is None:
            raise ValueError(
                "NeuralGraphOpt.diagnostics needs the safety net; got safety=None. "
                "Build the optimizer without that argument."
            )
        return self._tally.read()

    def __repr__(self) -> str:
        """Show the groups, the rule and where the graph comes from."""
        place = f"{self.graph.source}, {self.graph.placed_share:.0%} placed"
        kind = type(self.rule).__name__
        weights = sum(weight.numel() for weight in self.rule.parameters())
        head = f"rule: {kind} of {weights:,} weights\ngraph: {place}"
        return f"{super().__repr__()}\n{head}"

    def __getstate__(self) -> dict[str, Any]:
        """Return all that a copy needs.

        As with every optimizer of torch, hooks stay behind, and so does what others
        hang on it (a scheduler wraps `step`). The compiled step is made again.
        """
        self._look()
        copied = {key: item for key, item in vars(self).items() if key in _COPIED}
        return {**copied, _WATCHES: self._capture is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, or the groups and states of a checkpoint.

        A copy watches module calls by itself, if its original still did.
        """
        watches = state.get(_WATCHES)
        super().__setstate__({key: v for key, v in state.items() if key != _WATCHES})
        if watches is not None:
            self._capture = Capture(WeakMethod(self._read_tensors)) if watches else None
        for group in self.param_groups:
            for name in ("maximize", "betas", "rule_hash"):  # newer than some files
                group.setdefault(name, self.defaults[name])
        self._prepare_step()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return groups and states; each group names the rule by its `rule_hash`."""
        self._write_rule_hash()
        return super().state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint, bit for bit.

        Args:
            state_dict: what `state_dict` returned; left unchanged.

        Raises:
            ValueError: if it is another optimizer's or another rule's, or its groups
                or shapes differ.
        """
        with wide_loading(self, self.rule, self._state_dtype):
            super().load_state_dict(state_dict)

    def _gather(self) -> tuple[dict[str, Tensor], dict[str, Hyper], State]:
        """Collect gradients, settings and state by name."""
        grads: dict[str, Tensor] = {}
        hyper: dict[str, Hyper] = {}
        state: State = {}
        for group in self.param_groups:
            if tuple(group["betas"]) != BETAS and self._is_new("betas"):
                warn_of_betas(group["betas"])
            lr = group["lr"]
            if isinstance(lr, Tensor):
                lr = lr.reshape(())
            elif self._is_compiled:
                lr = torch.full((), lr, device=self._device)
            item = Hyper(lr=lr, weight_decay=group["weight_decay"])
            for param in group["params"]:
                name = self._names.get(param)
                if param.grad is None or name is None:
                    continue
                check_gradient(name, param.grad)
                check_device(name, param, self._device)
                grad = gathered(param.grad)
                grads[name] = -grad if group["maximize"] else grad
                hyper[name] = item
                if self.state.get(param):
                    state[name] = {
                        key: gathered(value)
                        for key, value in self.state[param].items()
                        if key not in KEYS
                    }
        return grads, hyper, state

    def _settle(self) -> None:
        """Go to the parameters' device, with the rule unless it is the user's."""
        self._device = parameters_of(self.param_groups)[0].device
        if self._owns_rule:
            self.rule.to(self._device)
        theta = next(self.rule.parameters(), None)
        if theta is not None and theta.device != self._device:
            raise ValueError(
                f"NeuralGraphOpt needs the rule on the parameters' device "
                f"{self._device}; got a rule on {theta.device}. Call "
                f"rule.to({str(self._device)!r}) first."
            )
        self._tally = self._tally.moved(self._device)
        for param in parameters_of(self.param_groups):
            if self.state.get(param):
                known = self.state[param].items()
                self.state[param] = {key: v.to(self._device) for key, v in known}

    def _write_rule_hash(self) -> None:
        """Let each group, new ones included, tell which rule its state belongs to."""
        number = rule_hash(self.rule)
        for group in (self.defaults, *self.param_groups):
            group["rule_hash"] = number

    def _set_graph(self, names: Mapping[int, str]) -> None:
        """Name every tensor, find what shapes prove, and watch for the modules."""
        before = self._tensors
        tensors = name_tensors(self.param_groups, self._model, names, before)
        for name, tensor in tensors.items():
            check_device(name, tensor, self._device)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if self._given_graph is None:
            known = self._graph if before else None
            is_named = not all(map(is_place, shapes))
            graph = graph_so_far(shapes, known, is_named=is_named)
        elif self._given_graph.shapes == shapes:
            graph = self._given_graph
        else:
            raise ValueError(
                "NeuralGraphOpt needs a graph over exactly its parameters; got a graph "
                f"of {self._given_graph.shapes} for {shapes}. Build it from the same "
                "parameters, under the same names."
            )
        if tensors:
            self.rule.check(graph)
        self._use(graph, tensors)
        if self._given_graph is None:
            self._capture = Capture(WeakMethod(self._read_tensors))

    def _use(self, graph: NeuralGraph, tensors: dict[str, Tensor]) -> None:
        """Read these tensors by this graph from now on."""
        self._graph = graph
        self._tensors = tensors
        self._names = {tensor: name for name, tensor in tensors.items()}
        self._tally = self._tally.renamed(tensors)
        self._prepare_step()

    def _read_tensors(self) -> list[Tensor]:
        """Return all tensors that the rule reads, as they are now."""
        own = parameters_of(self.param_groups)
        others = () if self._model is None else self._model.parameters()
        return [tensor for tensor in dict.fromkeys((*own, *others)) if tensor.numel()]

    def _find_again(self) -> None:
        """Find the tensors anew, which somebody exchanged inside a group.

        accelerate does so when it shards a model: not knowing them, we would train
        nothing and say nothing.
        """
        capture, self._tensors = self._capture, {}
        self._set_graph({})
        if capture is not None and capture.has_seen:
            self._capture = capture

    def _look(self, *, steps: bool = False) -> None:
        """Take the traced graph once the modules have run; a step ends the watch.

        Args:
            steps: whether a step is about to be taken.
        """
        capture = self._capture
        if capture is None:
            return
        has_seen = capture.has_seen
        if has_seen and capture.is_fresh:
            tensors = self._named_by(capture)
            graph = capture.read(tensors, self.rule.check)
            if graph is None:
                self._said.add("loose")  # the warning of the failure says it
                shapes = {name: tuple(t.shape) for name, t in tensors.items()}
                graph = graph_so_far(shapes, self._graph, is_named=True)
            self._use(graph, tensors)
        if steps:
            capture.close()
            self._capture = None
            self._warn_of_loose(capture.title if has_seen else "")
        elif has_seen and not capture.is_waiting:
            self._capture = None

    def _named_by(self, capture: Capture) -> dict[str, Tensor]:
        """Return the tensors, those without names of their own under a capture's."""
        known = {n: tensor for n, tensor in self._tensors.items() if not is_place(n)}
        return name_tensors(self.param_groups, self._model, capture.names(), known)

    def _warn_of_loose(self, title: str) -> None:
        """Say once if much of the graph is unknown, where anything can be joined."""
        maps = (isinstance(t, nn.Parameter) and t.ndim > 1 for t in self._names)
        if (
            any(maps)
            and self._graph.placed_share < _LEAST_PLACED
            and self._is_new("loose")
        ):
            warn_of_loose(self._graph, title, stacklevel=7)

    def _is_new(self, warning: str) -> bool:
        """Whether a warning was never given; it counts as given from now on."""
        is_new = warning not in self._said
        self._said.add(warning)
        return is_new

    def _prepare_step(self) -> None:
        step = partial(
            step_in_place, safety=self._safety, structure_every=self._structure_every
        )
        self._step = torch.compile(step) if self._is_compiled else step
