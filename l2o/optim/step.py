"""The one place where a step is computed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o.graph import NeuralGraph

from .rule import AbstractRule, Params
from .state import State


@dataclass(frozen=True, slots=True)
class Hyper:
    """What a user sets for a parameter."""

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
    wide = {name: _widened(param) for name, param in params.items()}
    moving = {name: _widened(grads[name]) for name in wide if name in grads}
    known = {name: state[name] for name in wide if name in state}
    fresh = {name: param for name, param in wide.items() if name not in state}
    new_state = rule.advance({**known, **rule.init_state(fresh)}, moving)
    all_grads = {
        name: moving[name] if name in moving else torch.zeros_like(param)
        for name, param in wide.items()
    }
    updates = rule(graph, wide, all_grads, new_state)
    new_params = {}
    for name, param in params.items():
        if name not in moving:
            new_params[name] = param
            continue
        item = Hyper() if hyper is None else hyper[name]
        shrink = 1 - item.lr * (rule.step_size * item.weight_decay)
        new = wide[name] * shrink + item.lr * updates[name]
        new_params[name] = new.to(param.dtype)
    kept = {name: new_state[name] for name in new_state if name in moving | known}
    return new_params, kept


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
