"""A rule whose weights are given from outside."""

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from l2o.graph import NeuralGraph

from .rule import AbstractRule
from .state import State, Tensors


def with_theta(rule: AbstractRule, theta: Tensors) -> AbstractRule:
    """Return the rule with other weights; nothing is copied or written.

    So theta becomes an argument: `torch.func.grad` differentiates by it,
    `torch.func.vmap` runs a population of rules, an outer optimizer may hold it
    anywhere.

    Args:
        rule: the rule; it must outlive the result, and its own weights stay as they
            are.
        theta: name to weight, under the names of `rule.named_parameters()`. Weights
            left out are the rule's own.

    Returns:
        A rule for `learned_step`. It is not for saving: give theta to
        `rule.load_state_dict` for that.

    Raises:
        ValueError: if the rule has no weight of such a name.

    Example:
        >>> import torch, l2o
        >>> rule = l2o.load_rule("ff")
        >>> params = {"weight": torch.ones(2, 3)}
        >>> graph = l2o.neural_graph(params)
        >>> def first_step(theta):
        ...     new, _ = l2o.learned_step(
        ...         with_theta(rule, theta), graph, params, params, {})
        ...     return new["weight"].sum()
        >>> slopes = torch.func.grad(first_step)(dict(rule.named_parameters()))
        >>> slopes.keys() == dict(rule.named_parameters()).keys()
        True
    """
    known = {name for name, _ in rule.named_parameters()}
    strange = sorted(theta.keys() - known)
    if strange:
        raise ValueError(
            f"with_theta needs weights of the rule; got {strange}, which it does not "
            "have. Use the names of rule.named_parameters()."
        )
    return _WithTheta(rule, theta)


class _WithTheta(AbstractRule):
    """Calls every method of a rule with its weights replaced."""

    def __init__(self, rule: AbstractRule, theta: Tensors) -> None:
        super().__init__()
        self.step_size = rule.step_size
        self._methods = _Methods(rule)
        self._theta = {f"rule.{name}": weight for name, weight in theta.items()}

    def check(self, graph: NeuralGraph) -> None:
        self._methods.rule.check(graph)

    def prepare(self, graph: NeuralGraph) -> None:
        self._methods.rule.prepare(graph)

    def init_state(self, params: Tensors) -> State:
        return self._call("init_state", params)

    def advance(self, state: State, grads: Tensors) -> State:
        return self._call("advance", state, grads)

    def forward(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        return self._call("forward", graph, params, grads, state)

    def _call(self, method: str, *arguments: Any) -> Any:
        return functional_call(self._methods, self._theta, (method, *arguments))


class _Methods(nn.Module):
    """Makes every method of a rule a forward pass, which is all that torch replaces."""

    def __init__(self, rule: AbstractRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, method: str, *arguments: Any) -> Any:
        return getattr(self.rule, method)(*arguments)
