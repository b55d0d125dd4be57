"""From the network's numbers an entry to an update."""

import math
from typing import assert_never

import torch
from torch import Tensor

from l2o.graph import NeuralGraph
from l2o.graph.linear_maps import fan_ins
from l2o.nets.fast_ops import add, multiplied

from .config import HeadConfig, NominalHeadConfig, PaperHeadConfig
from .directions import ADAM, NUM_DIRECTIONS, WHITENED, Directions


def num_outputs(config: HeadConfig) -> int:
    """Return how many numbers an entry the head takes."""
    match config:
        case PaperHeadConfig():
            return 2
        case NominalHeadConfig():
            return 1 + NUM_DIRECTIONS
        case _:
            assert_never(config)


def update_units(config: HeadConfig, graph: NeuralGraph) -> dict[str, float]:
    """Return what a head's updates are multiples of, for every parameter.

    Args:
        config: which head.
        graph: the neural graph of the parameters.
    """
    units = dict.fromkeys(graph.shapes, 1.0)
    if isinstance(config, NominalHeadConfig) and config.unit == "fan_in":
        for name, count in fan_ins(graph).items():
            units[name] = min(1.0, math.sqrt(config.full_fan_in / count))
    return units


def apply_head(
    config: HeadConfig,
    outputs: Tensor,
    directions: Directions | None,
    unit: Tensor | float = 1.0,
) -> Tensor:
    r"""Return what is added to one parameter at `lr = 1`.

    .. math::
        paper: \quad \lambda s \exp(\lambda m)

        nominal, adam: \quad -\eta \nu (u_{base} \exp(a) + \sum_k c_k u_k)

        nominal, all: \quad -\eta \nu \exp(a) (u_{base} + \sum_k c_k u_k)

    with directions :math:`u_k`, the step size :math:`\eta` and the unit :math:`\nu`.
    The nominal head with outputs at zero is its base. The sum over :math:`k` stays
    within `max_deviation` times the magnitude of the base's term. Every term is a
    direction times a factor, so that without gradients the update is zero, and no
    learned offset can push weights along forever.

    Args:
        config: which head, and its step size.
        outputs: `[*shape, num_outputs(config)]`: (s, m), or (a, c_1, ..., c_7); without
            autograd the nominal head writes over them.
        directions: of the same parameter; the paper's head needs none.
        unit: what `update_units` says of the parameter, to broadcast; the paper's head
            has none.

    Returns:
        `[*shape]`, in units of the parameter.

    Reference:
        Kofinas et al., 2024 (paper); Harrison et al., 2022, "A closer look at learned
        optimization", https://arxiv.org/abs/2209.11208 (nominal terms). The sum of
        directions is ours.
    """
    match config:
        case PaperHeadConfig():
            sign, magnitude = outputs.unbind(-1)
            return config.step_size * sign * torch.exp(config.step_size * magnitude)
        case NominalHeadConfig():
            assert directions is not None
            bound = config.max_log_scale
            factor = torch.exp(bound * torch.tanh(outputs[..., 0] / bound))
            mixed = multiplied(outputs[..., 1:].movedim(-1, 0), directions.steps).sum(0)
            # Of what is no linear map, the whitened momentum is Adam's direction.
            base = directions.steps[ADAM if config.base == "adam" else WHITENED]
            is_all = config.scaled == "all"
            base = base if is_all else base * factor
            if config.max_deviation is not None:
                limit = config.max_deviation * base.abs()
                mixed = torch.clamp(mixed, -limit, limit)
            total = add(mixed, base)
            total = multiplied(total, factor) if is_all else total
            return multiplied(total, -config.step_size * unit)
        case _:
            assert_never(config)
