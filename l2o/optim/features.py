"""What the learned network reads of one parameter tensor."""

from math import log
from typing import Protocol, assert_never, runtime_checkable

import torch
from torch import Tensor

from .config import FeaturesConfig, LogSignFeaturesConfig, ScaleFreeFeaturesConfig
from .directions import NUM_DIRECTIONS, Directions
from .state import MOMENTUM_DECAYS, ParameterState, column, constant, rms

_LIMIT = 5.0
"""Features are clipped to this magnitude."""


@runtime_checkable
class Features(Protocol):
    """What the learned network reads of one parameter tensor."""

    num_features: int
    """Channels an entry."""
    num_context: int
    """Channels that the whole tensor shares."""

    def __call__(
        self,
        param: Tensor,
        grad: Tensor,
        state: ParameterState,
        directions: Directions | None,
    ) -> tuple[Tensor, Tensor]:
        """Return `[*shape, num_features]` and `[num_context]`."""
        ...


class LogSignFeatures:
    """The paper's 14 features: log-magnitude and sign of seven numbers.

    The seven are weight, gradient and five momenta, accumulated as `m <- decay * m +
    g`. A number x becomes `(log|x| / p, sign x)`, or `(-1, e^p x)` below `e^-p`.

    Reference:
        Andrychowicz et al., 2016, "Learning to learn by gradient descent by gradient
        descent", https://arxiv.org/abs/1606.04474, appendix A; p = 10.
    """

    num_features = 2 * (2 + len(MOMENTUM_DECAYS))
    num_context = 0

    def __call__(
        self,
        param: Tensor,
        grad: Tensor,
        state: ParameterState,
        directions: Directions | None,
    ) -> tuple[Tensor, Tensor]:
        """Return `[*shape, 14]` and an empty context."""
        decays = column(MOMENTUM_DECAYS, state["momenta"])
        sums = state["momenta"] / (1 - decays)
        values = torch.cat([param[None], grad[None], sums])
        return _log_sign(values).movedim(0, -1), param.new_zeros(0)


def _log_sign(values: Tensor, p: float = 10.0) -> Tensor:
    """Return `[2n, *shape]` from `[n, *shape]`: magnitudes, then signs."""
    floor = constant([-p], values).exp().squeeze(0)
    size = values.abs()
    is_large = size >= floor
    magnitude = torch.where(is_large, size.clamp_min(floor).log() / p, -1.0)
    sign = torch.where(is_large, values.sign(), values / floor)
    return torch.cat([magnitude, sign])


class ScaleFreeFeatures:
    """Features that survive a rescaling of the loss or of a tensor.

    An entry has 15 channels: the seven directions that the nominal head mixes (a
    momentum over the root of the second moment tells how sure its sign is); weight,
    gradient and momenta, each over its root mean square in the tensor (how large is
    this entry beside the others?); and the logarithm of its root second moment beside
    the tensor's. A tensor's context holds the logarithms of the root mean squares of
    gradient and momenta over the root second moment (how much signal is there?) and
    of the weight, its number of entries and of axes, and a clock.
    """

    num_features = NUM_DIRECTIONS + 2 + len(MOMENTUM_DECAYS) + 1

    def __init__(self, config: ScaleFreeFeaturesConfig) -> None:
        self.time_scales = config.time_scales
        self.num_context = 1 + len(MOMENTUM_DECAYS) + 3 + len(self.time_scales)

    def __call__(
        self,
        param: Tensor,
        grad: Tensor,
        state: ParameterState,
        directions: Directions | None,
    ) -> tuple[Tensor, Tensor]:
        """Return `[*shape, 15]` and `[num_context]`."""
        assert directions is not None
        values = torch.cat([param[None], grad[None], state["momenta"]])
        root = directions.root[None]
        entry = torch.cat(
            [directions.steps, values / rms(values), (root / rms(root)).log()]
        )
        entry = entry.clamp(-_LIMIT, _LIMIT).movedim(0, -1)
        return entry, self._context(param, directions.steps[:-1], state["step"])

    def _context(self, param: Tensor, ratios: Tensor, step: Tensor) -> Tensor:
        signal = rms(ratios).flatten().log()
        weight = rms(param[None]).flatten().log()
        logs = torch.cat([signal, weight]).clamp(-2 * _LIMIT, _LIMIT) / 2
        size = constant([log(param.numel()) / 10, min(param.ndim, 4) / 4], param)
        scales = constant(self.time_scales, param)
        clock = torch.tanh((step.to(param.dtype) - 1) / scales - 1)
        return torch.cat([logs, size, clock])


def build_features(config: FeaturesConfig) -> Features:
    """Return the features that `config` describes."""
    match config:
        case LogSignFeaturesConfig():
            return LogSignFeatures()
        case ScaleFreeFeaturesConfig():
            return ScaleFreeFeatures(config)
        case _:
            assert_never(config)
