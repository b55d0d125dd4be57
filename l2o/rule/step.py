"""The one place where a step is computed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o.graph import NeuralGraph

from .rule import AbstractRule, Params
from .state import State, averages_as


@dataclass(frozen=True, slots=True)
class Hyper:
    """What a user sets for a parameter.

    Example:
        >>> params = {"weight": torch.ones(2), "bias": torch.ones(2)}
        >>> hyper = dict.fromkeys(params, Hyper(lr=0.5, weight_decay=0.01))
    """

    lr: float | Tensor = 1.0
    """Multiplier of the rule's update; 1 is as meta-trained. Dimensionless."""
    weight_decay: float = 0.0
    """Decoupled decay, in AdamW's convention: each step shrinks the parameter by the
    factor `1 - lr * rule.step_size * weight_decay`."""


def learned_step(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
    hyper: Mapping[str, Hyper] | None = None,
) -> tuple[Params, State]:
    """Take one step of a learned optimizer.

    Pure: nothing is written in place, autograd passes through to theta, to the
    parameters and to the gradients, and `torch.func.vmap` stacks networks of one
    architecture. Computation is in float32 or wider.

    Args:
        rule: the learned network.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph.
        grads: name to gradient. A parameter without one keeps its value and its
            state, and is read with a gradient of zero.
        state: what `rule.init_state(params)` or the last step returned. A parameter
            that never had a gradient may be missing.
        hyper: name to `Hyper`; None means the defaults for all.

    Returns:
        The new parameters, in their own dtype, and the new state. Parameters without
        a gradient are returned as they came.

    Example:
        >>> import l2o
        >>> params = {"weight": torch.ones(2, 3)}
        >>> grads = {"weight": torch.ones(2, 3)}
        >>> rule, graph = l2o.Rule(), l2o.neural_graph(params)
        >>> new, state = learned_step(rule, graph, params, grads,
        ...                           rule.init_state(params))
        >>> round(new["weight"][0, 0].item(), 4)  # an untrained rule is Adam at 0.01
        0.99
    """
    start = complete_state(rule, params, state)
    wide = {name: widened(grads[name]) for name in params if name in grads}
    new_state = rule.advance(start, wide)
    updates = propose_updates(rule, graph, params, grads, new_state)
    new_params = apply_updates(rule, params, updates, hyper)
    touched = {
        name: new_state[name] for name in params if name in grads or name in state
    }
    return new_params, touched


def complete_state(
    rule: AbstractRule,
    params: Mapping[str, Tensor],
    state: State,
    dtype: torch.dtype | None = None,
) -> State:
    """Return the state of every parameter, new where `state` lacks it.

    Args:
        rule: whose state it is.
        params: name to value, for every parameter of the graph.
        state: what is known of it.
        dtype: of new averages; None means the parameters', in float32 or wider.
    """
    fresh = {name: widened(params[name]) for name in params if name not in state}
    return {
        **{name: state[name] for name in params if name in state},
        **averages_as(rule.init_state(fresh), dtype),
    }


def propose_updates(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
) -> Params:
    """Ask the rule what to add to each parameter that has a gradient. Pure.

    Args:
        rule: the learned network.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph.
        grads: name to gradient, for those that have one.
        state: of every parameter, these gradients included.

    Returns:
        Updates at `lr = 1` in float32 or wider, one a gradient.
    """
    wide, all_grads = widened_all(params, grads)
    updates = rule(graph, wide, all_grads, state)
    return {name: updates[name] for name in wide if name in grads}


def widened_all(
    params: Mapping[str, Tensor], grads: Mapping[str, Tensor]
) -> tuple[Params, Params]:
    """Return parameters and gradients in float32 or wider, zeros for missing ones."""
    wide = {name: widened(param) for name, param in params.items()}
    all_grads = {
        name: widened(grads[name]) if name in grads else torch.zeros_like(param)
        for name, param in wide.items()
    }
    return wide, all_grads


def apply_updates(
    rule: AbstractRule,
    params: Mapping[str, Tensor],
    updates: Mapping[str, Tensor],
    hyper: Mapping[str, Hyper] | None,
) -> Params:
    """Return the parameters after decay and update, in their own dtype. Pure.

    Those without an update are returned as they came.
    """
    new_params = dict(params)
    for name, update in updates.items():
        item = Hyper() if hyper is None else hyper[name]
        new = torch.add(*summands(rule, params[name], update, item))
        new_params[name] = new.to(params[name].dtype)
    return new_params


def summands(
    rule: AbstractRule, param: Tensor, update: Tensor, hyper: Hyper
) -> tuple[Tensor, Tensor]:
    """Return the two tensors whose sum is the new parameter, in float32 or wider."""
    shrink = 1 - hyper.lr * (rule.step_size * hyper.weight_decay)
    return _times(widened(param), shrink), _times(update, hyper.lr)


def _times(values: Tensor, factor: float | Tensor) -> Tensor:
    """Return the product; the tensor itself where it would be the same."""
    return values if isinstance(factor, float) and factor == 1 else values * factor


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
