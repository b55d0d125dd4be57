"""`NeuralGraphOpt` inside `higher.innerloop_ctx`: an adapter, not a base.

`higher` is frozen since 2021 and this library does not need it: `learned_step` is
differentiable by itself. The adapter is for code that is written on `higher` already.
"""

import warnings
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from l2o.rule.state import State
from l2o.rule.step import Hyper, learned_step
from l2o.rule.theta import with_theta

from .optimizer import NeuralGraphOpt

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # `is` with a literal
        import higher
        from higher.optim import DifferentiableOptimizer
except ImportError as error:
    raise ImportError(
        "l2o.optim.higher_adapter needs the package higher; got none. Install it with "
        "pip install 'l2o[higher]', or differentiate l2o.learned_step yourself."
    ) from error


class DifferentiableNeuralGraphOpt(DifferentiableOptimizer):
    """What `higher.innerloop_ctx` makes of a `NeuralGraphOpt`.

    Theta enters in one of two ways. By default it is that of the optimizer's own rule,
    by reference: a backward pass through the inner loop fills `rule.parameters()`'
    gradients. Or it is given: `override={"theta": [theta]}` with a dictionary as
    `with_theta` takes it, for a theta that is itself computed. Overrides of `lr` and
    `weight_decay` may be tensors with a gradient too.

    It takes each step as the rule proposes it, without the safety net, since a skipped
    step has no derivative. Parameters that the rule reads and the optimizer does not
    train are read where the functional model has them. The graph is the one that the
    optimizer has when the context is entered: run the model itself before, so that it
    is traced.

    Args:
        other: the optimizer; its state is copied, its rule and graph are shared.
        reference_params: the parameters of the model, all of them, in order.
        **settings: what `higher` passes on: `fmodel`, `device`, `override`,
            `grad_callback`, `track_higher_grads`.

    Example:
        >>> import higher, torch, l2o
        >>> register_with_higher()
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = l2o.NeuralGraphOpt(model.parameters(), rule="ff")
        >>> with higher.innerloop_ctx(model, optimizer) as (network, inner):
        ...     _ = inner.step(network(torch.ones(1, 3)).square().sum())
        ...     network(torch.ones(1, 3)).square().sum().backward()
        >>> all(weight.grad is not None for weight in optimizer.rule.parameters())
        True

    Reference:
        Grefenstette et al., 2019, "Generalized Inner Loop Meta-Learning",
        https://arxiv.org/abs/1910.01727.
    """

    def __init__(
        self,
        other: NeuralGraphOpt,
        reference_params: Iterable[Tensor],
        **settings: Any,
    ) -> None:
        reference = list(reference_params)
        super().__init__(other, reference, **settings)
        self.rule = other.rule
        self.graph = other.graph
        names = {tensor: name for name, tensor in other._watched.tensors.items()}
        self._group_names = [
            [names.get(param) for param in group["params"]]
            for group in other.param_groups
        ]
        trained = {name for group in self._group_names for name in group}
        places = {tensor: index for index, tensor in enumerate(reference)}
        self._read_only = {
            name: places[tensor]
            for name, tensor in other._watched.tensors.items()
            if name not in trained
        }

    def write_back(self, optimizer: NeuralGraphOpt) -> None:
        """Copy the state and the fast weights into an ordinary optimizer, detached.

        So a long inner run is cut into windows: enter a new context afterwards, and
        the graph of the last one is free.

        Args:
            optimizer: the one that this was made from.
        """
        with torch.no_grad():
            for index, group in enumerate(optimizer.param_groups):
                fast = self.param_groups[index]["params"]
                for place, param in enumerate(group["params"]):
                    if fast[place] is not None:
                        param.copy_(fast[place])
                    if self.state[index][place]:
                        optimizer.state[param] = {
                            key: value.detach().clone()
                            for key, value in self.state[index][place].items()
                        }

    def _update(self, grouped_grads: list[list[Tensor]], **_: Any) -> None:
        """Take one step; `higher` has put the fast weights into the groups."""
        params = self._read_only_params()
        grads: dict[str, Tensor] = {}
        hyper: dict[str, Hyper] = {}
        state: State = {}
        places: dict[str, tuple[int, int]] = {}
        for index, group in enumerate(self.param_groups):
            item = Hyper(lr=group["lr"], weight_decay=group["weight_decay"])
            for place, name in enumerate(self._group_names[index]):
                if name is None:
                    continue
                params[name] = group["params"][place]
                places[name] = index, place
                grad: Tensor | None = grouped_grads[index][place]
                if grad is not None:
                    grads[name] = -grad if group["maximize"] else grad
                    hyper[name] = item
                if self.state[index][place]:
                    state[name] = self.state[index][place]
        if not grads:
            return
        theta = self.param_groups[0].get("theta")
        rule = self.rule if theta is None else with_theta(self.rule, theta)
        device = next(iter(grads.values())).device.type
        with (
            torch.set_grad_enabled(self._track_higher_grads),
            torch.autocast(device_type=device, enabled=False),
        ):
            new, new_state = learned_step(rule, self.graph, params, grads, state, hyper)
        for name, (index, place) in places.items():
            self.param_groups[index]["params"][place] = new[name]
            if name in new_state:
                self.state[index][place] = new_state[name]

    def _read_only_params(self) -> dict[str, Tensor]:
        """Return what the rule reads besides the trained parameters, as it is now."""
        if not self._read_only:
            return {}
        fast = None if self._fmodel is None else self._fmodel.fast_params
        if fast is None:
            raise ValueError(
                "DifferentiableNeuralGraphOpt needs the functional model to read the "
                f"parameters {sorted(self._read_only)}, which it does not train; got "
                "none. Pass fmodel=, or build the optimizer without model=."
            )
        return {name: fast[place] for name, place in self._read_only.items()}


def register_with_higher(kind: type[NeuralGraphOpt] = NeuralGraphOpt) -> None:
    """Make `higher.innerloop_ctx` accept a `NeuralGraphOpt`; calling it twice is fine.

    Args:
        kind: the optimizer class. `higher` looks it up by its exact type, so a
            subclass is registered by itself.

    Example:
        >>> register_with_higher()
    """
    # Its annotation asks for an instance; its code, rightly, for the class.
    higher.register_optim(cast(Any, kind), DifferentiableNeuralGraphOpt)
