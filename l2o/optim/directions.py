"""Hand-designed directions: what the nominal head mixes and the network reads."""

from typing import NamedTuple

import torch
from torch import Tensor

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


def find_directions(
    grad: Tensor, state: ParameterState, white: Tensor | None = None
) -> Directions:
    """Return the directions of one parameter, this step's gradient included.

    Args:
        grad: `[*shape]`.
        state: after this gradient.
        white: the whitened momentum, `[*shape]`. None whitens the tensor as one matrix,
            or takes Adam's direction for a vector.
    """
    # A parameter that never had a gradient is at step 0, where 1 - decay**0 is zero.
    step = state["step"].to(state["momenta"].dtype).clamp_min(1)
    decays = column(MOMENTUM_DECAYS, state["momenta"])
    root = (state["second_moment"] / (1 - SECOND_MOMENT_DECAY**step) + TINY).sqrt()
    root = root + ADAM_EPS
    ratios = state["momenta"] / ((1 - decays**step) * root)
    if white is None and grad.ndim < 2:
        white = ratios[ADAM_MOMENTUM]
    elif white is None:
        white = whiten(look_ahead(grad, state).flatten(1)).reshape(grad.shape)
    return Directions(torch.cat([(grad / root)[None], ratios, white[None]]), root)
