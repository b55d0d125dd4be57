"""Hand-designed directions: what the nominal head mixes and the network reads."""

from typing import NamedTuple

import torch
from torch import Tensor

from l2o.nets.fast_ops import joined

from .state import (
    ADAM_EPS,
    ADAM_MOMENTUM,
    MOMENTUM_DECAYS,
    SECOND_MOMENT_DECAY,
    TINY,
    ParameterState,
    column,
)
from .whitening import look_ahead, whiten

NUM_DIRECTIONS = 2 + len(MOMENTUM_DECAYS)
"""Gradient, momenta, whitened momentum."""
ADAM = 1 + ADAM_MOMENTUM
"""Which direction is Adam's."""
WHITENED = NUM_DIRECTIONS - 1
"""Which direction is the whitened momentum."""


class Directions(NamedTuple):
    """Ways downhill for one parameter, none of which depends on the loss's scale."""

    steps: Tensor
    """`[direction, *shape]`: gradient and bias-corrected momenta over the root of the
    second moment (Adam's direction is row `ADAM`), then the whitened momentum."""
    root: Tensor
    """`[*shape]`: root of the second moment, in units of the gradient."""


class Values(NamedTuple):
    """What is known of some entries, whatever tensors they come from."""

    main: Tensor
    """`[7, *entries]`: weight, gradient, five momenta."""
    second: Tensor
    """`[*entries]`: second moment."""
    ages: Tensor
    """What `ages_of` their steps returns, to broadcast: `[6, *entries]`."""


def ages_of(steps: Tensor) -> Tensor:
    """Return by how much zero-initialised averages fall short after some steps.

    Args:
        steps: `[*tensors]`, numbers of gradients seen.

    Returns:
        `[6, *tensors]`: `1 - decay**step` of five momenta and of the second moment.
    """
    # A parameter that never had a gradient is at step 0, where 1 - decay**0 is zero.
    decays = column((*MOMENTUM_DECAYS, SECOND_MOMENT_DECAY), steps[None])
    return 1 - decays ** steps.clamp_min(1)


def directions_of(values: Values, white: Tensor | None) -> Directions:
    """Return the directions of some entries, this step's gradients included.

    Args:
        values: after these gradients.
        white: their whitened momentum, `[*entries]`; None for what is no linear map
            and takes Adam's direction instead.
    """
    root = (values.second / values.ages[-1] + TINY).sqrt() + ADAM_EPS
    grad, momenta = values.main[1:2], values.main[2:]
    sizes = values.ages[:-1] * root
    adam = ADAM_MOMENTUM
    last = (torch.div, momenta[adam, None], sizes[adam, None])
    steps = joined(
        (torch.div, grad, root),
        (torch.div, momenta, sizes),
        last if white is None else white[None],
    )
    return Directions(steps, root)


def find_directions(
    grad: Tensor, state: ParameterState, *, is_map: bool = True
) -> Directions:
    """Return the directions of one parameter, this step's gradient included.

    A linear map is whitened whole, its rows along the first axis.

    Args:
        grad: `[*shape]`.
        state: after this gradient.
        is_map: whether it is a linear map; a vector never is.
    """
    main = torch.cat([torch.zeros_like(grad)[None], grad[None], state["momenta"]])
    ages = ages_of(state["step"].to(main.dtype)).reshape(-1, *[1] * grad.ndim)
    white = None
    if is_map and grad.ndim > 1:
        white = whiten(look_ahead(grad, state).flatten(1)).reshape(grad.shape)
    return directions_of(Values(main, state["second_moment"], ages), white)
