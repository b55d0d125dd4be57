"""From the network's two numbers an entry to an update."""

from typing import assert_never

import torch
from torch import Tensor

from .config import HeadConfig, NominalHeadConfig, PaperHeadConfig
from .features import ADAM_MOMENTUM, ParameterState, adam_ratios


def apply_head(config: HeadConfig, outputs: Tensor, state: ParameterState) -> Tensor:
    r"""Return what is added to one parameter at `lr = 1`.

    .. math::
        paper: \\quad \\lambda s \\exp(\\lambda m)

        nominal: \\quad -\\eta (u \\exp(a) + rms(u) d)

    with u Adam's direction and :math:`\\eta` the step size. The nominal head with
    outputs at zero is Adam, and without gradients it is zero whatever the outputs.

    Args:
        config: which head, and its step size.
        outputs: `[*shape, 2]`: (s, m), or (d, a).
        state: the parameter's state, this step's gradient included.

    Returns:
        `[*shape]`, in units of the parameter.

    Reference:
        Kofinas et al., 2024 (paper); Harrison et al., 2022, "A closer look at learned
        optimization", https://arxiv.org/abs/2209.11208 (nominal terms).
    """
    first, second = outputs.unbind(-1)
    match config:
        case PaperHeadConfig():
            return config.step_size * first * torch.exp(config.step_size * second)
        case NominalHeadConfig():
            ratios, _ = adam_ratios(state)
            nominal = ratios[ADAM_MOMENTUM]
            scale = (nominal.square().mean() + 1e-30).sqrt()
            scale = torch.where(nominal.detach().abs().sum() > 0, scale, 0.0)
            bound = config.max_log_scale
            factor = torch.exp(bound * torch.tanh(second / bound))
            return -config.step_size * (nominal * factor + scale * first)
        case _:
            assert_never(config)
