"""The step as the optimizer takes it: written over parameters and state.

The numbers are those of the pure step, bit for bit. What that makes anew, a second
state above all, would take several times the memory of the parameters.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from l2o.graph import NeuralGraph
from l2o.rule.cached_outputs import updates_with_cache
from l2o.rule.memory import PURE
from l2o.rule.rule import AbstractRule, plain_averages
from l2o.rule.safety import SafetyConfig, StepReport
from l2o.rule.state import State, Tensors
from l2o.rule.step import Hyper, take_step

from .foreach_state import advance_in_place, narrowed_like, widened_averages


def step_in_place(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Tensors,
    grads: Tensors,
    state: State,
    hyper: Mapping[str, Hyper],
    *,
    safety: SafetyConfig | None = None,
    structure_every: int = 1,
) -> tuple[State, StepReport | None]:
    """Take a step over parameters and state.

    Args:
        rule: the learned network.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph; written.
        grads: name to gradient, for at least one of them; left as they are.
        state: of every parameter; perhaps written.
        hyper: name to `Hyper`.
        safety: limits of the guard; None takes the step as the rule proposes it.
        structure_every: steps from one run of the network to the next.

    Returns:
        The new state of the parameters with a gradient, which may share tensors with
        `state`, and what the guard saw, if there was one.
    """
    compute = None
    if structure_every > 1:
        compute = partial(updates_with_cache, rule, moving=grads, every=structure_every)
    _, new_state, report = take_step(
        rule,
        graph,
        params,
        grads,
        state,
        hyper,
        safety=safety,
        memory=IN_PLACE,
        compute=compute,
    )
    return {name: new_state[name] for name in params if name in grads}, report


class InPlaceMemory:
    """Writes over parameters and averages; see `l2o.rule.memory.Memory`."""

    def may_ask(self, device: torch.device) -> bool:
        """Return whether the device answers at once."""
        return device.type == "cpu" and not torch.compiler.is_compiling()

    def advance(
        self,
        rule: AbstractRule,
        state: State,
        grads: Tensors,
        are_finite: Tensor | None,
    ) -> State:
        """Return the state after one more gradient, written in place if it can be."""
        averages = plain_averages(rule)
        if averages is None:
            return PURE.advance(rule, state, grads, are_finite)
        if not torch.compiler.is_compiling():
            own = {name: state[name] for name in grads}
            advance_in_place(averages, own, grads, are_finite)
            return state
        new = PURE.advance(rule, widened_averages(state), grads, are_finite)
        return narrowed_like(new, state)

    def write(
        self, param: Tensor, kept: Tensor, change: Tensor, is_sound: Tensor | None
    ) -> Tensor:
        """Return the parameter, written unless the step is not sound."""
        if is_sound is None and kept.dtype == change.dtype == param.dtype:
            return torch.add(kept, change, out=param)
        return param.copy_(PURE.write(param, kept, change, is_sound))


IN_PLACE = InPlaceMemory()
