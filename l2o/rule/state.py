"""From gradients to momenta: the memory of a rule.

The state of one parameter is `{"step", "momenta", "second_moment"}`: exponential
moving averages of the gradient at five decays and of its square at one, without bias
correction, in the parameter's shape. So a checkpoint depends on neither the rule's
features nor the graph.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

ParameterState: TypeAlias = dict[str, Tensor]
State: TypeAlias = dict[str, ParameterState]

MOMENTUM_DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)
"""Decays of the gradient averages (Kofinas et al., 2024, section 4.3)."""
ADAM_MOMENTUM = MOMENTUM_DECAYS.index(0.9)
"""Which of them is Adam's first moment."""
SECOND_MOMENT_DECAY = 0.999
"""Decay of the average of squared gradients: Adam's."""
ADAM_EPS = 1e-8
"""Added to the root of the second moment, as Adam does."""

TINY = 1e-30
"""Inside roots of mean squares, so that zeros have a finite derivative."""


def init_parameter_state(param: Tensor) -> ParameterState:
    """Return the state before the first step: zeros, in `param`'s dtype and device.

    Args:
        param: the parameter, of any shape; only its shape, dtype and device matter.
    """
    return {
        "step": torch.zeros((), dtype=torch.float32, device=param.device),
        "momenta": torch.zeros(
            len(MOMENTUM_DECAYS), *param.shape, dtype=param.dtype, device=param.device
        ),
        "second_moment": torch.zeros(
            param.shape, dtype=param.dtype, device=param.device
        ),
    }


def advance_parameter_state(state: ParameterState, grad: Tensor) -> ParameterState:
    """Return the state after one more gradient. Pure."""
    momenta = state["momenta"]
    decays = column(MOMENTUM_DECAYS, momenta)
    second = state["second_moment"]
    return {
        "step": state["step"] + 1,
        "momenta": decays * momenta + (1 - decays) * grad,
        "second_moment": SECOND_MOMENT_DECAY * second
        + (1 - SECOND_MOMENT_DECAY) * grad * grad,
    }


def init_state(params: Mapping[str, Tensor]) -> State:
    """Return zero momenta, in each parameter's shape, dtype and device."""
    return {name: init_parameter_state(param) for name, param in params.items()}


def advance_state(state: State, grads: Mapping[str, Tensor]) -> State:
    """Return the momenta after one more gradient; others stay as they are."""
    return {
        name: advance_parameter_state(item, grads[name]) if name in grads else item
        for name, item in state.items()
    }


def averages_as(state: State, dtype: torch.dtype | None) -> State:
    """Return a state with its averages in another type; None means as they are."""
    if dtype is None:
        return state
    return {
        name: {key: v if key == "step" else v.to(dtype) for key, v in item.items()}
        for name, item in state.items()
    }


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """Return `values` as a tensor of `like`'s dtype on its device, without waiting."""
    host = torch.tensor(values, dtype=like.dtype, device="cpu")
    return host.to(like.device, non_blocking=True)


def column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return `values` along a first axis that broadcasts against `like`."""
    return constant(values, like).reshape(-1, *[1] * (like.ndim - 1))


def rms(values: Tensor) -> Tensor:
    """Return the root mean square over all axes but the first; those become 1."""
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    rms = (flat.square().mean(1) + TINY).sqrt()
    return rms.reshape(-1, *[1] * (values.ndim - 1))
