"""`NeuralGraphOpt`: the `torch.optim` shell around the pure step."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from l2o.graph import NeuralGraph
from l2o.rule.checkpoint import DEFAULT_RULE, rule_hash
from l2o.rule.horizon import with_aim, with_horizon
from l2o.rule.rule import AbstractRule
from l2o.rule.safety import SafetyConfig
from l2o.rule.step import complete_state, take_step

from .averaged_weights import AVERAGE, KEYS, AveragingOptimizer, advance_average
from .checks import (
    BETAS,
    check_group,
    check_rule_device,
    check_settings,
    check_state_dtype,
    found_rule,
    listed_params,
)
from .diagnostics import Diagnostics, Tally
from .distributed import gathered, write_back
from .in_place import IN_PLACE
from .interrupts import uninterrupted
from .named_values import gather_inputs
from .names import names_in, parameters_of
from .once import Once
from .resume import wide_loading
from .watched_graph import WatchedGraph

_SAFETY = SafetyConfig()

_COPIED = (
    *("defaults", "state", "param_groups", "rule", "_device", "_has_average"),
    *("_is_averaged", "_is_compiled", "_is_ready", "_once", "_owns_rule"),
    *("_safety", "_state_dtype", "_tally", "_watched"),
)
"""Attributes that a deep copy or a pickle of the optimizer carries."""


class NeuralGraphOpt(AveragingOptimizer):
    """Train a network with a learned optimizer that sees it as a neural graph.

    Each step lays weights, gradients and momenta on the network's graph, lets the
    rule predict one update per parameter, and adds it. It needs no learning rate.

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
        state_dtype: `torch.bfloat16` halves the state, 12 bytes per parameter instead
            of 24: averages are computed in float32 and rounded stochastically, by noise
            that depends on step and name alone. None keeps float32 or wider.
        total_steps: number of steps of the whole run, if it is known: updates then fall
            to zero at its end, without a scheduler. None is for runs of any length.
        average: keep an average of the weights as well, for `averaged` and
            `use_average`: one more float per parameter. It remembers a tenth of the run
            so far, whatever its length, and usually generalises better than the weights
            of single steps. Neuron-level rules take larger late steps then, so
            evaluate at the average.

    Raises:
        TypeError: if a parameter is no tensor, or is complex or integer.
        ValueError: if there is no parameter, `lr` or `weight_decay` is negative,
            devices differ, model or graph do not fit the parameters, `state_dtype`
            is another, or the rule keeps a state of its own, or `total_steps` does not
            suit the rule.
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
        rule: str | Path | AbstractRule = DEFAULT_RULE,
        model: nn.Module | None = None,
        graph: NeuralGraph | None = None,
        compile: bool = False,
        safety: SafetyConfig | None = _SAFETY,
        state_dtype: torch.dtype | None = None,
        total_steps: int | None = None,
        average: bool = False,
    ) -> None:
        check_settings(lr=lr, weight_decay=weight_decay)
        names = names_in(params)
        params = listed_params(params)
        self._is_compiled = compile
        self._safety = safety
        self._state_dtype = state_dtype
        self._has_average = average
        self._is_averaged = False
        self._tally = Tally((), (safety or _SAFETY).max_update)
        self._is_ready = False
        self._once = Once()
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "betas": BETAS,
        }
        super().__init__(params, defaults)
        self._owns_rule = isinstance(rule, str | Path)
        known = with_horizon(found_rule(rule), total_steps)
        self.rule = with_aim(known, is_averaged=average)
        check_state_dtype(state_dtype, self.rule)
        self._watched = WatchedGraph(self, self.rule, model, graph)
        self._settle()
        self._write_rule_hash()
        self._watched.find(names, self._device)
        self._follow_graph()
        self._is_ready = True

    @property
    def graph(self) -> NeuralGraph:
        """The neural graph that the rule reads."""
        self._look()
        return self._watched.graph

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
                self._watched.find({}, self._device)
                self._follow_graph()
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
        if torch.compiler.is_compiling():
            return _step_uncompiled(self, closure)  # pyright: ignore[reportCallIssue]
        if self._is_averaged:
            raise ValueError(
                "NeuralGraphOpt.step needs the weights that the last step left; got "
                "the averaged ones. Leave `with optimizer.averaged()` before stepping."
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with uninterrupted():
            self._take_step()
        return loss

    def _take_step(self) -> None:
        """Update the parameters that have a gradient."""
        moving = [p for p in parameters_of(self.param_groups) if p.grad is not None]
        if moving and moving[0].device != self._device:
            self._settle()
        watched = self._watched
        if any(param.numel() and param not in watched.names for param in moving):
            watched.find_again(self._device)
            self._follow_graph()
        if not any(param in watched.names for param in moving):
            return
        self._look(steps=True)
        watched.watch_again(moving)
        self._once.warn_of_settings(self.param_groups)
        self._once.warn_of_end(self.rule.horizon, self.state.values())
        grads, hyper, state = gather_inputs(
            self.param_groups,
            watched.names,
            self.state,
            self._device,
            lr_as_tensor=self._is_compiled,
        )
        params = {name: gathered(tensor) for name, tensor in watched.tensors.items()}
        kind = self._device.type
        has_autocast = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
            state = complete_state(self.rule, params, state, self._state_dtype)
            _, new_state, report = self._step(
                self.rule,
                watched.graph,
                params,
                grads,
                state,
                hyper,
            )
        if report is not None:
            self._tally.add(report)
            if self._tally.has_stopped():
                self._once.warn_of_skips()
        for name in grads:
            param = watched.tensors[name]
            item = dict(new_state[name])
            if params[name] is not param:  # it was gathered
                item = dict(write_back(param, params[name], item))
            before = self.state.get(param, {})
            item |= {key: before[key] for key in KEYS if key in before}
            if self._has_average or AVERAGE in item:
                sound = None if report is None else report.is_sound
                advance_average(param, item, sound)
            self.state[param] = item

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
        return {key: item for key, item in vars(self).items() if key in _COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, or the groups and states of a checkpoint."""
        super().__setstate__(state)
        self._once.forget_steps()
        self._watched.belong_to(self)
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

    def _settle(self) -> None:
        """Go to the parameters' device, with the rule unless it is the user's."""
        self._device = parameters_of(self.param_groups)[0].device
        if self._owns_rule:
            self.rule.to(self._device)
        check_rule_device(self.rule, self._device)
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

    def _look(self, *, steps: bool = False) -> None:
        """Take the traced graph once the modules have run; a step ends the watch."""
        if self._watched.look(steps=steps):
            self._follow_graph()

    def _follow_graph(self) -> None:
        """Count and compute by the tensors that the rule reads now."""
        self._tally = self._tally.renamed(self._watched.tensors)
        self._prepare_step()

    def _prepare_step(self) -> None:
        step = partial(take_step, safety=self._safety, memory=IN_PLACE)
        self._step = step
        if self._is_compiled:
            self.rule.prepare(self._watched.graph)
            self._step = torch.compile(step)


@torch.compiler.disable
def _step_uncompiled(
    optimizer: NeuralGraphOpt, closure: Callable[[], float | Tensor] | None
) -> float | Tensor | None:
    """Take a step inside a `torch.compile` of the caller: uncompiled."""
    optimizer._once.warn_of_compile()
    return type(optimizer).step(optimizer, closure)  # the attribute is the compiled one
