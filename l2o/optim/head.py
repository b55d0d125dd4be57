"""From the network's numbers an entry to an update."""

from typing import assert_never

import torch
from torch import Tensor

from .config import HeadConfig, NominalHeadConfig, PaperHeadConfig
from .directions import ADAM, NUM_DIRECTIONS, Directions


def num_outputs(config: HeadConfig) -> int:
    """Return how many numbers an entry the head takes."""
    match config:
        case PaperHeadConfig():
            return 2
        case NominalHeadConfig():
            return 1 + NUM_DIRECTIONS
        case _:
            assert_never(config)


def apply_head(
    config: HeadConfig, outputs: Tensor, directions: Directions | None
) -> Tensor:
    r"""Return what is added to one parameter at `lr = 1`.

    .. math::
        paper: \quad \lambda s \exp(\lambda m)

        nominal: \quad -\eta (u_{Adam} \exp(a) + \sum_k c_k u_k)

    with directions :math:`u_k` and the step size :math:`\eta`. The nominal head with
    outputs at zero is Adam. Every term is a direction times a factor, so that without
    gradients the update is zero, and no learned offset can push weights along forever.

    Args:
        config: which head, and its step size.
        outputs: `[*shape, num_outputs(config)]`: (s, m), or (a, c_1, ..., c_7).
        directions: of the same parameter; the paper's head needs none.

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
            mixed = (outputs[..., 1:].movedim(-1, 0) * directions.steps).sum(0)
            return -config.step_size * (directions.steps[ADAM] * factor + mixed)
        case _:
            assert_never(config)
