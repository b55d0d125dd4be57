"""Slow and plain forms of what the library computes, for comparison."""

import torch

from l2o.rule.directions import Directions, DirectionSet
from l2o.rule.newton_schulz import whiten
from l2o.rule.state import Averages
from l2o.rule.whitening import look_ahead

AVERAGES = Averages()
DIRECTIONS = DirectionSet()
NUM_DIRECTIONS = len(DIRECTIONS)
ADAM = DIRECTIONS.row("adam")
WHITENED = DIRECTIONS.row("whitened")


def init_parameter_state(param):
    """Return zero averages of one parameter."""
    return AVERAGES.init_state({"": param})[""]


def advance_parameter_state(state, grad):
    """Return the averages of one parameter after one more gradient."""
    return AVERAGES.advance({"": state}, {"": grad})[""]


def find_directions(grad, state, *, is_map=True):
    """Return the directions of one parameter; a map has its rows along axis 0.

    Args:
        grad: `[*shape]`.
        state: after this gradient.
        is_map: whether it is a linear map; a vector never is.
    """
    ages = AVERAGES.ages(state["step"].to(grad.dtype))
    root = (state["second_moment"] / ages[-1] + 1e-30).sqrt() + 1e-8
    momenta = [
        momentum / (age * root)
        for momentum, age in zip(state["momenta"], ages[:-1], strict=True)
    ]
    last = momenta[AVERAGES.adam_momentum]
    if is_map and grad.ndim > 1:
        ahead = look_ahead(grad, state, AVERAGES.adam_momentum)
        last = whiten(ahead.flatten(1)).reshape(grad.shape)
    return Directions(torch.stack([grad / root, *momenta, last]), root)
