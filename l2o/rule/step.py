"""The one place where a step is computed: gradients to state, updates, parameters.

`take_step` is the step. Meta-training, `torch.func`, the adapter for higher and the
optimizer call it, or `learned_step` and `guarded_step`, which are short forms of it.
Only where results are written differs: `memory` returns new tensors (`PURE`) or writes
in place (`l2o.optim.in_place`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from l2o.graph import NeuralGraph
from l2o.schedules import share_left

from .memory import PURE, Addition, Memory
from .rule import AbstractRule, Params, plain_averages
from .safety import Guard, Past, SafetyConfig, StepReport
from .state import State, Tensors, averages_as, widened
from .tensor_lists import uses_lists

Compute: TypeAlias = Callable[[NeuralGraph, Tensors, Tensors, State], Params]
"""What `AbstractRule.forward` does: graph, parameters, gradients, state to updates."""


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


def take_step(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Tensors,
    grads: Tensors,
    state: State,
    hyper: Mapping[str, Hyper] | None = None,
    *,
    safety: SafetyConfig | None = None,
    memory: Memory = PURE,
    compute: Compute | None = None,
) -> tuple[Params, State, StepReport | None]:
    """Take one step: advance the state, ask for updates, guard and apply them.

    Args:
        rule: the learned network.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph.
        grads: name to gradient, for those that have one.
        state: of every parameter.
        hyper: name to `Hyper`; None means the defaults for all.
        safety: limits of the guard; None takes the step as the rule proposes it.
        memory: where results are written.
        compute: what computes the updates; None means `rule` itself. Others are a
            compiled rule, one with another theta, or kept outputs of its network.

    Returns:
        The parameters in their own dtype, the state of every parameter, and what the
        guard saw, if there was one.
    """
    # 1. The guard looks at the gradients.
    moving = {name: widened(grads[name]) for name in params if name in grads}
    guard = None
    if safety is not None and moving:
        device = next(iter(moving.values())).device
        averages, may_ask = plain_averages(rule), memory.may_ask(device)
        past = None if averages is None else Past.of(averages, state, moving)
        guard = Guard(safety, moving, past, may_ask=may_ask)
        if guard.stops:
            return dict(params), state, guard.report()
        moving = guard.grads
    # 2. The state takes them in, and the rule proposes updates.
    are_finite = None if guard is None else guard.condition(guard.are_finite)
    state = memory.advance(rule, state, moving, are_finite)
    updates = propose_updates(rule, graph, params, moving, state, compute)
    # 3. The guard looks at the updates.
    if guard is not None:
        guard.judge(updates, rule.step_size)
    is_sound = None if guard is None else guard.condition(guard.is_sound)
    new_params = dict(params)
    if guard is not None and guard.stops:
        return new_params, state, guard.report()
    if guard is not None:
        updates = guard.clipped(updates)
    # 4. The parameters are written, on an accelerator all of them together.
    horizon = None if rule.reads_horizon else rule.horizon
    together = uses_lists([params[name] for name in updates])
    for names in [list(updates)] if together else [[name] for name in updates]:
        additions = []
        for name in names:
            update = updates.pop(name)  # its memory is free once it is written
            if horizon is not None:
                step = state[name]["step"].to(update.dtype)
                update = update * share_left(step, horizon)
            item = Hyper() if hyper is None else hyper[name]
            shrink = 1 - item.lr * (rule.step_size * item.weight_decay)
            kept = widened(params[name])
            if not _is_one(shrink):
                kept = kept * shrink
            if not _is_one(item.lr):
                update = update * item.lr
            additions.append(Addition(params[name], kept, update))
        new = memory.write(additions, is_sound)
        new_params.update(zip(names, new, strict=True))
    return new_params, state, None if guard is None else guard.report()


def learned_step(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Tensors,
    grads: Tensors,
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
    new_params, new_state, _ = take_step(rule, graph, params, grads, start, hyper)
    return new_params, _touched(new_state, params, grads, state)


def guarded_step(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Tensors,
    grads: Tensors,
    state: State,
    hyper: Mapping[str, Hyper] | None = None,
    safety: SafetyConfig | None = None,
) -> tuple[Params, State, StepReport]:
    """Take a `learned_step` under a guard.

    Where nothing is wrong, the result is `learned_step`'s, bit for bit. Nothing is
    copied to the host, so an accelerator never waits. Pure.

    Args:
        rule: as for `learned_step`, and so are the others.
        graph: the neural graph of the parameters.
        params: name to value.
        grads: name to gradient, for at least one of them.
        state: what the last step returned.
        hyper: name to `Hyper`.
        safety: the limits; None means the defaults.

    Returns:
        The new parameters, the new state, and what was seen.

    Raises:
        ValueError: if no parameter has a gradient.

    Example:
        >>> import l2o
        >>> params = {"weight": torch.ones(2, 3)}
        >>> grads = {"weight": torch.full((2, 3), torch.nan)}
        >>> rule, graph = l2o.Rule(), l2o.neural_graph(params)
        >>> new, _, report = guarded_step(rule, graph, params, grads, {})
        >>> bool(report.is_sound), torch.equal(new["weight"], params["weight"])
        (False, True)
    """
    limits = SafetyConfig() if safety is None else safety
    start = complete_state(rule, params, state)
    new_params, new_state, report = take_step(
        rule, graph, params, grads, start, hyper, safety=limits
    )
    if report is None:
        raise ValueError(
            "guarded_step needs a gradient of at least one parameter; got none. Call "
            "learned_step, which then returns everything as it came."
        )
    return new_params, _touched(new_state, params, grads, state), report


def _touched(
    new_state: State,
    params: Tensors,
    grads: Tensors,
    state: State,
) -> State:
    """Return the state of parameters that have, or ever had, a gradient."""
    return {name: new_state[name] for name in params if name in grads or name in state}


def complete_state(
    rule: AbstractRule,
    params: Tensors,
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
    params: Tensors,
    grads: Tensors,
    state: State,
    compute: Compute | None = None,
) -> Params:
    """Ask the rule what to add to each parameter that has a gradient. Pure.

    Arguments as for `take_step`; the state has seen these gradients.

    Returns:
        Updates at `lr = 1` in float32 or wider, one per gradient.
    """
    wide = {name: widened(param) for name, param in params.items()}
    all_grads = {
        name: widened(grads[name]) if name in grads else torch.zeros_like(param)
        for name, param in wide.items()
    }
    updates = (rule if compute is None else compute)(graph, wide, all_grads, state)
    return {name: updates[name] for name in wide if name in grads}


def _is_one(factor: float | Tensor) -> bool:
    """Return whether a product with this factor is known to change nothing."""
    return isinstance(factor, float) and factor == 1
