"""Where a step writes its results."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .rule import AbstractRule
from .state import ParameterState, State, Tensors


@runtime_checkable
class Memory(Protocol):
    """Where a step writes its results."""

    def may_ask(self, device: torch.device) -> bool:
        """Return whether a step may ask the device for answers."""
        ...

    def advance(
        self,
        rule: AbstractRule,
        state: State,
        grads: Tensors,
        are_finite: Tensor | None,
    ) -> State:
        """Return the state after one more gradient.

        Args:
            rule: whose state it is.
            state: of every parameter.
            grads: of those that move; zeros if they are not finite.
            are_finite: whether they are, and the state is to advance; None says yes.
        """
        ...

    def write(
        self, param: Tensor, kept: Tensor, change: Tensor, is_sound: Tensor | None
    ) -> Tensor:
        """Return the parameter with the value `kept + change`, in its own dtype.

        Args:
            param: the parameter.
            kept: in float32 or wider.
            change: in float32 or wider.
            is_sound: whether the parameter is to change; None says yes.
        """
        ...


class PureMemory:
    """Returns new tensors; autograd and `torch.func` pass."""

    def may_ask(self, device: torch.device) -> bool:
        """Return False: a pure step never waits."""
        return False

    def advance(
        self,
        rule: AbstractRule,
        state: State,
        grads: Tensors,
        are_finite: Tensor | None,
    ) -> State:
        """Return the state after one more gradient; see `Memory`."""
        new = rule.advance(state, grads)
        if are_finite is None:
            return new
        return {
            name: chosen(are_finite, item, state[name]) if name in grads else item
            for name, item in new.items()
        }

    def write(
        self, param: Tensor, kept: Tensor, change: Tensor, is_sound: Tensor | None
    ) -> Tensor:
        """Return the new value; see `Memory`."""
        new = torch.add(kept, change).to(param.dtype)
        return new if is_sound is None else torch.where(is_sound, new, param)


PURE = PureMemory()


def chosen(
    condition: Tensor, first: ParameterState, second: ParameterState
) -> ParameterState:
    """Return one state or the other, without waiting for the condition."""
    return {key: torch.where(condition, first[key], second[key]) for key in first}
