"""How the optimizer lets `take_step` write: over parameters and state.

The numbers are those of the pure step, bit for bit. What that makes anew, a second
state above all, would take several times the memory of the parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.rule.memory import PURE
from l2o.rule.rule import AbstractRule, plain_averages
from l2o.rule.state import State, Tensors
from l2o.rule.tensor_lists import add_lists, uses_lists, zeros_unless

from .foreach_state import advance_in_place, narrowed_like, widened_averages


class InPlaceMemory:
    """Writes over parameters and averages; see `l2o.rule.memory.Memory`."""

    def may_ask(self, device: torch.device) -> bool:
        """Return whether the device answers at once."""
        return device.type == "cpu" and not torch.compiler.is_compiling()

    def advance(
        self, rule: AbstractRule, state: State, grads: Tensors, is_finite: Tensor | None
    ) -> State:
        """Return the state after one more gradient, written in place if it can be."""
        averages = plain_averages(rule)
        if averages is None:
            return PURE.advance(rule, state, grads, is_finite)
        if not torch.compiler.is_compiling():
            own = {name: state[name] for name in grads}
            advance_in_place(averages, own, grads, is_finite)
            return state
        new = PURE.advance(rule, widened_averages(state), grads, is_finite)
        return narrowed_like(new, state)

    def write(
        self,
        params: Sequence[Tensor],
        kept: Sequence[Tensor],
        changes: Sequence[Tensor],
        is_sound: Tensor | None,
    ) -> list[Tensor]:
        """Return the parameters, written unless the step is not sound."""
        if uses_lists(params) and all(
            param is own for param, own in zip(params, kept, strict=True)
        ):
            if is_sound is not None:
                changes = zeros_unless(is_sound, changes)
            add_lists(params, changes)
            return list(params)
        for param, own, change in zip(params, kept, changes, strict=True):
            if is_sound is None and own.dtype == change.dtype == param.dtype:
                torch.add(own, change, out=param)
            else:
                param.copy_(PURE.write([param], [own], [change], is_sound)[0])
        return list(params)


IN_PLACE = InPlaceMemory()
