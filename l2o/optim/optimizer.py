"""`NeuralGraphOpt`: the `torch.optim` shell around the pure step."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from l2o.graph import NeuralGraph
from l2o.graph.infer import graph_from_shapes

from .checkpoint import load_rule
from .rule import AbstractRule
from .state import State
from .step import Hyper, learned_step


class NeuralGraphOpt(Optimizer):
    """Train a network with a learned optimizer that sees it as a neural graph.

    Each step lays weights, gradients and momenta on the network's graph, lets the
    rule predict one update a parameter, and adds it. It needs no learning rate.

    Args:
        params: what to optimise, as every `torch.optim` optimizer takes it: tensors,
            groups, or (name, tensor) pairs, in the order of the layers.
        lr: multiplier of the rule's updates, dimensionless; 1 is as meta-trained.
        weight_decay: decoupled decay in AdamW's convention; a step shrinks a
            parameter by the factor `1 - lr * rule.step_size * weight_decay`.
        rule: the name of a shipped rule, the path of a rule file, or a rule. A rule
            object must lie on the parameters' device; it is shared, not copied.
        model: the module that owns the parameters. Its names tell more about the
            graph than shapes do, and the rule also reads those of its parameters that
            are not optimised here.
        graph: the graph itself, over all of `params` by name ("0", "1", ... where
            they have none).
        compile: whether `torch.compile` fuses the step: a minute or more at the first
            step, about twice as fast from then on.

    Raises:
        TypeError: if a parameter is no tensor, or is complex or integer.
        ValueError: if there is no parameter, `lr` or `weight_decay` is negative,
            devices differ, or model or graph do not fit the parameters.
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
        lr: float = 1.0,
        weight_decay: float = 0.0,
        *,
        rule: str | Path | AbstractRule = "ng-gnn",
        model: nn.Module | None = None,
        graph: NeuralGraph | None = None,
        compile: bool = False,
    ) -> None:
        _check_not_negative(lr=lr, weight_decay=weight_decay)
        params = [params] if isinstance(params, dict) else list(params)
        if not params:
            raise ValueError(
                "NeuralGraphOpt needs at least one parameter; got an empty list. "
                "Did you pass a generator that was already used, or a model without "
                "parameters?"
            )
        self._model = model
        self._given_graph = graph
        self._is_compiled = compile
        self._is_ready = False
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.rule = self._prepare_rule(rule)
        self._set_graph()
        self._is_ready = True

    @property
    def graph(self) -> NeuralGraph:
        """The neural graph that the rule reads."""
        return self._graph

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; the graph is found again with its parameters in it.

        Raises:
            ValueError: if the optimizer was given a graph that lacks them.
        """
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
            if self._is_ready:
                self._set_graph()
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
            ValueError: if parameters were moved to another device than the rule's.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads, hyper, state = self._gather()
        if not grads:
            return loss
        with torch.autocast(device_type=self._device.type, enabled=False):
            new_params, new_state = self._step(
                self.rule, self._graph, self._tensors, grads, state, hyper
            )
        for name in grads:
            self._tensors[name].copy_(new_params[name])
            self.state[self._tensors[name]] = new_state[name]
        return loss

    def __repr__(self) -> str:
        """Show the groups, the rule and where the graph comes from."""
        place = f"{self._graph.source}, {self._graph.placed_share:.0%} placed"
        kind = type(self.rule).__name__
        weights = sum(weight.numel() for weight in self.rule.parameters())
        head = f"rule: {kind} of {weights:,} weights\ngraph: {place}"
        return f"{super().__repr__()}\n{head}"

    def __getstate__(self) -> dict[str, Any]:
        """Return all that a copy needs; the compiled step is made again."""
        return {key: item for key, item in vars(self).items() if key != "_step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, or the groups and states of a checkpoint."""
        super().__setstate__(state)
        self._prepare_step()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint, bit for bit.

        Args:
            state_dict: what `state_dict` returned; left unchanged.

        Raises:
            ValueError: if it is another optimizer's, or its groups differ.
        """
        expected = self.rule.init_state({"": self._owned()[0]})[""].keys()
        for key, item in state_dict["state"].items():
            if item.keys() != expected:
                raise ValueError(
                    "NeuralGraphOpt needs a state that its rule saved, with "
                    f"{sorted(expected)}; got {sorted(item)} for parameter {key}. Load "
                    "the checkpoint of a run with this rule, or start without its "
                    "optimizer state."
                )
        super().load_state_dict(state_dict)
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        for key, param in zip(saved, self._owned(), strict=True):
            # torch casts averages to the parameter's dtype; they must stay wide.
            if key in state_dict["state"]:
                self.state[param] = {
                    name: value.to(param.device, copy=True)
                    for name, value in state_dict["state"][key].items()
                }

    def _gather(self) -> tuple[dict[str, Tensor], dict[str, Hyper], State]:
        """Collect gradients, settings and state by name."""
        grads: dict[str, Tensor] = {}
        hyper: dict[str, Hyper] = {}
        state: State = {}
        for group in self.param_groups:
            lr = group["lr"]
            if self._is_compiled and not isinstance(lr, Tensor):
                lr = torch.tensor(lr, device=self._device)
            item = Hyper(lr=lr, weight_decay=group["weight_decay"])
            for param in group["params"]:
                name = self._names.get(param)
                if param.grad is None or name is None:
                    continue
                if param.grad.layout != torch.strided:
                    raise TypeError(
                        "NeuralGraphOpt needs dense gradients; got one of layout "
                        f"{param.grad.layout} for {name!r}. Build the embedding with "
                        "sparse=False."
                    )
                _check_device(name, param, self._device)
                grads[name] = param.grad
                hyper[name] = item
                if param in self.state:
                    state[name] = self.state[param]
        return grads, hyper, state

    def _prepare_rule(self, rule: str | Path | AbstractRule) -> AbstractRule:
        """Load the rule if need be; learn its device."""
        device = self._owned()[0].device
        if isinstance(rule, str | Path):
            rule = load_rule(rule).to(device)
        if not isinstance(rule, AbstractRule):
            raise TypeError(
                "NeuralGraphOpt needs a rule by name, by path or as an object; got "
                f"{rule!r}. Pass for example rule='ng-gnn' or rule=Rule()."
            )
        theta = next(rule.parameters(), None)
        if theta is not None and theta.device != device:
            raise ValueError(
                f"NeuralGraphOpt needs the rule on the parameters' device {device}; "
                f"got a rule on {theta.device}. Call rule.to({str(device)!r}) first."
            )
        self._device = device
        return rule

    def _set_graph(self) -> None:
        """Name every tensor and find the graph that they form."""
        tensors = self._named_tensors()
        for name, tensor in tensors.items():
            _check_device(name, tensor, self._device)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if self._given_graph is None:
            known = "names and shapes" if self._has_names else "shapes"
            graph = graph_from_shapes(shapes, source=f"parameter {known}")
        elif self._given_graph.shapes == shapes:
            graph = self._given_graph
        else:
            raise ValueError(
                "NeuralGraphOpt needs a graph over exactly its parameters; got a graph "
                f"of {self._given_graph.shapes} for {shapes}. Build it from the same "
                "parameters, under the same names."
            )
        self.rule.check(graph)
        self._graph = graph
        self._tensors = tensors
        self._names = {tensor: name for name, tensor in tensors.items()}
        self._prepare_step()

    def _prepare_step(self) -> None:
        self._step = torch.compile(learned_step) if self._is_compiled else learned_step

    def _owned(self) -> list[Tensor]:
        """Return the parameters of all groups; at least one."""
        owned = [param for group in self.param_groups for param in group["params"]]
        if not owned:
            raise ValueError(
                "NeuralGraphOpt needs at least one parameter; got only empty groups. "
                "Did you pass a generator that was already used?"
            )
        return owned

    @property
    def _has_names(self) -> bool:
        """Whether every parameter has a name of its own."""
        names = self._given_names()
        is_named = bool(names) and len(set(names)) == len(names)
        return self._model is not None or is_named

    def _given_names(self) -> list[str]:
        return [n for group in self.param_groups for n in group.get("param_names", ())]

    def _named_tensors(self) -> dict[str, Tensor]:
        """Return every tensor that the rule reads; empty ones have nothing to read."""
        owned = self._owned()
        if self._model is not None:
            named = dict(self._model.named_parameters())
            known = set(named.values())
            strangers = sum(param not in known for param in owned)
            if strangers:
                raise ValueError(
                    "NeuralGraphOpt needs parameters of the given model; got "
                    f"{strangers} of {len(owned)} that it does not own. Pass the model "
                    "whose parameters these are, or leave `model` out."
                )
        elif self._has_names:
            named = dict(zip(self._given_names(), owned, strict=True))
        else:
            named = {str(index): param for index, param in enumerate(owned)}
        return {name: tensor for name, tensor in named.items() if tensor.numel()}

    def _check_group(self, group: dict[str, Any]) -> None:
        _check_not_negative(lr=group["lr"], weight_decay=group["weight_decay"])
        names = group.get("param_names", range(len(group["params"])))
        for name, param in zip(names, group["params"], strict=True):
            if not param.is_floating_point():
                raise TypeError(
                    "NeuralGraphOpt needs real floating-point parameters; got dtype "
                    f"{param.dtype} for parameter {name!r}. Leave it out, or convert "
                    "it (torch.view_as_real for complex ones)."
                )


def _check_not_negative(**values: float | Tensor) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(
                f"NeuralGraphOpt {name} must be zero or above; got {name}={value}. "
                + ("1.0 is as meta-trained." if name == "lr" else "0.0 means none.")
            )


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(
            f"NeuralGraphOpt needs all parameters on {device}, where its rule lies; "
            f"got {name!r} on {tensor.device}. Move the model before you build the "
            "optimizer, and use one optimizer a device."
        )
