"""How the optimizer lets `take_step` write: over parameters and state.

The numbers are those of the pure step, bit for bit. What that makes anew, a second
state above all, would take several times the memory of the parameters.
"""

import torch
from torch import Tensor

from l2o.rule.memory import PURE
from l2o.rule.rule import AbstractRule, plain_averages
from l2o.rule.state import State, Tensors

from .foreach_state import advance_in_place, narrowed_like, widened_averages


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
