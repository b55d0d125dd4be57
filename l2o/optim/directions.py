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
    rms,
)

NUM_DIRECTIONS = 2 + len(MOMENTUM_DECAYS)
"""Gradient, momenta, whitened momentum."""
ADAM = 1 + ADAM_MOMENTUM
"""Which direction is Adam's."""
WHITENED = NUM_DIRECTIONS - 1
"""Which direction is the whitened momentum."""

_WHITENING = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that pushes singular values towards 1 (Jordan, 2024)."""
_WHITENING_STEPS = 5


class Directions(NamedTuple):
    """Ways downhill for one parameter, none of which depends on the loss's scale."""

    steps: Tensor
    """`[direction, *shape]`: gradient and bias-corrected momenta over the root of the
    second moment (Adam's direction is row `ADAM`), then the whitened momentum."""
    root: Tensor
    """`[*shape]`: root of the second moment, in units of the gradient."""


def find_directions(grad: Tensor, state: ParameterState) -> Directions:
    """Return the directions of one parameter, this step's gradient included.

    Args:
        grad: `[*shape]`.
        state: after this gradient.
    """
    # A parameter that never had a gradient is at step 0, where 1 - decay**0 is zero.
    step = state["step"].to(state["momenta"].dtype).clamp_min(1)
    decays = column(MOMENTUM_DECAYS, state["momenta"])
    root = (state["second_moment"] / (1 - SECOND_MOMENT_DECAY**step) + TINY).sqrt()
    root = root + ADAM_EPS
    ratios = state["momenta"] / ((1 - decays**step) * root)
    if grad.ndim < 2:
        white = ratios[ADAM_MOMENTUM]
    else:
        decay = MOMENTUM_DECAYS[ADAM_MOMENTUM]
        ahead = decay * state["momenta"][ADAM_MOMENTUM] + (1 - decay) * grad
        white = whiten(ahead.flatten(1)).reshape(grad.shape)
    return Directions(torch.cat([(grad / root)[None], ratios, white[None]]), root)


def whiten(matrix: Tensor) -> Tensor:
    """Return the matrix with its singular values near one another, at unit scale.

    A few Newton-Schulz steps; rows and columns may be permuted before or after.

    Args:
        matrix: `[row, column]`.

    Returns:
        `[row, column]` with a root mean square of 1; zero where `matrix` is zero.

    Reference:
        Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/. We fix the root mean
        square instead of the largest singular value.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    white = matrix.T if is_tall else matrix
    white = white / (white.square().sum() + TINY).sqrt()
    first, second, third = _WHITENING
    for _ in range(_WHITENING_STEPS):
        gram = white @ white.T
        white = first * white + (second * gram + third * gram @ gram) @ white
    white = white.T if is_tall else white
    return white / rms(white[None])[0]
