"""Where a step writes its results."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .rule import AbstractRule
from .state import ParameterState, State, Tensors


class Addition(NamedTuple):
    """What a parameter becomes: `kept + change`."""

    param: Tensor
    kept: Tensor
    """What is left of its value after weight decay, in float32 or wider; without decay
    perhaps the parameter itself."""
    change: Tensor
    """The update times `lr`, in float32 or wider."""


@runtime_checkable
class Memory(Protocol):
    """Where a step writes its results."""

    def may_ask(self, device: torch.device) -> bool:
        """Return whether a step may ask the device for answers."""
        ...

    def advance(
        self, rule: AbstractRule, state: State, grads: Tensors, is_finite: Tensor | None
    ) -> State:
        """Return the state after one more gradient.

        Args:
            rule: whose state it is.
            state: of every parameter.
            grads: of those that move; zeros if they are not finite.
            is_finite: whether they are, and the state is to advance; None says yes.
        """
        ...

    def write(
        self, additions: Sequence[Addition], is_sound: Tensor | None
    ) -> list[Tensor]:
        """Return the parameters after these additions, in their own dtypes.

        Args:
            additions: one per parameter. Changes may be written over where `is_sound`
                is a tensor.
            is_sound: whether the parameters are to change; None says yes.
        """
        ...


class PureMemory:
    """Returns new tensors; autograd and `torch.func` pass."""

    def may_ask(self, device: torch.device) -> bool:
        """Return False: a pure step never waits."""
        return False

    def advance(
        self, rule: AbstractRule, state: State, grads: Tensors, is_finite: Tensor | None
    ) -> State:
        """Return the state after one more gradient; see `Memory`."""
        new = rule.advance(state, grads)
        if is_finite is None:
            return new
        return {
            name: chosen(is_finite, item, state[name]) if name in grads else item
            for name, item in new.items()
        }

    def write(
        self, additions: Sequence[Addition], is_sound: Tensor | None
    ) -> list[Tensor]:
        """Return the new values; see `Memory`."""
        found = []
        for param, kept, change in additions:
            new = torch.add(kept, change).to(param.dtype)
            found.append(new if is_sound is None else torch.where(is_sound, new, param))
        return found


PURE = PureMemory()


def chosen(
    condition: Tensor, first: ParameterState, second: ParameterState
) -> ParameterState:
    """Return one state or the other, without waiting for the condition."""
    return {key: torch.where(condition, first[key], second[key]) for key in first}
