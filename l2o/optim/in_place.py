"""The step as the optimizer takes it: written over parameters and state.

The numbers are those of the pure steps, bit for bit. What these make anew, a second
state above all, would take several times the memory of the parameters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from l2o.graph import NeuralGraph
from l2o.rule.cached_outputs import updates_by_turns
from l2o.rule.rule import AbstractRule, Params, Rule
from l2o.rule.safety import (
    SafetyConfig,
    StepReport,
    all_finite,
    chosen,
    clipped,
    peaks_of,
    sizes_of,
    tamed,
)
from l2o.rule.state import State
from l2o.rule.step import Hyper, propose_updates, summands, widened, widened_all

from .foreach_state import advance_in_place, narrowed_like, widened_averages


def learned_step_in_place(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
    hyper: Mapping[str, Hyper],
    structure_every: int = 1,
) -> tuple[State]:
    """Take a `learned_step`.

    Args:
        rule: the learned network.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph; written.
        grads: name to gradient, for at least one of them; left as they are.
        state: of every parameter; perhaps written.
        hyper: name to `Hyper`.
        structure_every: steps from one run of the network to the next.

    Returns:
        The new state of the parameters with a gradient; it may share tensors with
        `state`.
    """
    wide = _moving(params, grads)
    state = _advanced(rule, state, wide, None)
    updates = _proposed(rule, graph, params, wide, state, structure_every)
    for name in list(updates):
        _write(rule, params[name], updates.pop(name), hyper[name], None)
    return ({name: state[name] for name in wide},)


def guarded_step_in_place(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
    hyper: Mapping[str, Hyper],
    safety: SafetyConfig,
    structure_every: int = 1,
) -> tuple[State, StepReport]:
    """Take a `guarded_step`.

    Where answers are at hand they are asked for, and copies are spared.

    Args:
        rule: the learned network.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph; written.
        grads: name to gradient, for at least one of them; left as they are.
        state: of every parameter; perhaps written.
        hyper: name to `Hyper`.
        safety: the limits.
        structure_every: steps from one run of the network to the next.

    Returns:
        The new state of the parameters with a gradient, which may share tensors with
        `state`, and what was seen.
    """
    wide = _moving(params, grads)
    peaks = peaks_of(wide)
    are_finite = all_finite(peaks)
    is_at_hand = can_ask(are_finite)
    if is_at_hand and not are_finite:
        nothing = {name: torch.zeros_like(peak) for name, peak in peaks.items()}
        report = StepReport(are_finite, peaks, nothing)
        return {name: state[name] for name in wide}, report
    tame = {
        name: grad
        if is_at_hand and peaks[name] <= safety.max_gradient
        else tamed(grad, peaks[name], are_finite, safety)
        for name, grad in wide.items()
    }
    state = _advanced(rule, state, tame, None if is_at_hand else are_finite)
    updates = _proposed(rule, graph, params, tame, state, structure_every)
    sizes = sizes_of(rule, updates, are_finite)
    is_sound = are_finite & all_finite(sizes)
    for name in list(updates) if not is_at_hand or is_sound else ():
        update = updates.pop(name)
        if not is_at_hand or sizes[name] > safety.max_update:
            update = clipped(update, sizes[name], safety)
        condition = None if is_at_hand else is_sound
        _write(rule, params[name], update, hyper[name], condition)
    report = StepReport(is_sound, peaks, sizes)
    return {name: state[name] for name in tame}, report


def can_ask(answer: Tensor) -> bool:
    """Whether a number may be asked for without waiting for it."""
    return answer.device.type == "cpu" and not torch.compiler.is_compiling()


def _moving(params: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> Params:
    """Return the gradients in float32 or wider, in the parameters' order."""
    return {name: widened(grads[name]) for name in params if name in grads}


def _proposed(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
    structure_every: int,
) -> Params:
    """Return `propose_updates`, or what the network's last outputs make of the step."""
    if structure_every == 1:
        return propose_updates(rule, graph, params, grads, state)
    wide, all_grads = widened_all(params, grads)
    moving = [name for name in wide if name in grads]
    args = rule, graph, wide, all_grads, state
    return updates_by_turns(*args, moving, structure_every)


def _advanced(
    rule: AbstractRule,
    state: State,
    grads: Mapping[str, Tensor],
    are_finite: Tensor | None,
) -> State:
    """Return the state after one more gradient, written in place if that is known how.

    Args:
        rule: whose state it is.
        state: of every parameter.
        grads: zeros, if they are not finite.
        are_finite: whether they are; None says that they are.
    """
    own = {name: state[name] for name in grads}
    # A rule that averages in a way of its own, and what is compiled, does so purely.
    if type(rule).advance is Rule.advance and not torch.compiler.is_compiling():
        advance_in_place(own, grads, are_finite)
        return state
    is_ours = isinstance(rule, Rule)
    wide = widened_averages(state) if is_ours else state
    new = rule.advance(wide, grads)
    if are_finite is not None:
        new = {
            name: chosen(are_finite, new[name], wide[name]) if name in grads else item
            for name, item in new.items()
        }
    return narrowed_like(new, state) if is_ours else new


def _write(
    rule: AbstractRule,
    param: Tensor,
    update: Tensor,
    hyper: Hyper,
    is_sound: Tensor | None,
) -> None:
    """Add an update to its parameter, unless the step is not sound."""
    kept, change = summands(rule, param, update, hyper)
    if is_sound is None and kept.dtype == change.dtype == param.dtype:
        torch.add(kept, change, out=param)
        return
    new = (kept + change).to(param.dtype)
    param.copy_(new if is_sound is None else torch.where(is_sound, new, param))
