"""What the learned network reads of one parameter tensor."""

from collections.abc import Sequence
from math import log, prod
from typing import Protocol, assert_never, runtime_checkable

import torch
from torch import Tensor

from l2o.nets.fast_ops import clamped, joined

from .config import FeaturesConfig, LogSignFeaturesConfig, ScaleFreeFeaturesConfig
from .directions import NUM_DIRECTIONS, Directions, Values
from .state import MOMENTUM_DECAYS, column, constant

_LIMIT = 5.0
"""Features are clipped to this magnitude."""


@runtime_checkable
class Features(Protocol):
    """What the learned network reads of some entries, and of their tensors."""

    num_features: int
    """Channels an entry."""
    num_context: int
    """Channels that a whole tensor shares."""
    num_scales: int
    """How many root mean squares of a tensor the features need."""

    def measured(self, values: Values, directions: Directions | None) -> list[Tensor]:
        """Return what the scales are root mean squares of, `[num_scales, *entries]`.

        It comes in parts along the first axis, which are never joined.
        """
        ...

    def context(
        self, scales: Tensor, steps: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """Return `[tensor, num_context]`.

        Args:
            scales: `[num_scales, tensor]`.
            steps: `[tensor]`, numbers of gradients seen.
            shapes: of the tensors.
        """
        ...

    def __call__(
        self, values: Values, directions: Directions | None, scales: Tensor
    ) -> Tensor:
        """Return `[num_features, *entries]`.

        Args:
            values: of the entries.
            directions: of the same entries; None where no rule needs them.
            scales: of their tensors, to broadcast: `[num_scales, *entries]`.
        """
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
    num_scales = 0

    def measured(self, values: Values, directions: Directions | None) -> list[Tensor]:
        """Return nothing: no entry is compared with its tensor."""
        return []

    def context(
        self, scales: Tensor, steps: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """Return an empty context."""
        return steps.new_zeros(len(shapes), 0)

    def __call__(
        self, values: Values, directions: Directions | None, scales: Tensor
    ) -> Tensor:
        """Return `[14, *entries]`."""
        decays = column(MOMENTUM_DECAYS, values.main)
        sums = values.main[2:] / (1 - decays)
        return _log_sign(torch.cat([values.main[:2], sums]))


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
    num_scales = 2 + len(MOMENTUM_DECAYS) + 1 + (NUM_DIRECTIONS - 1)

    def __init__(self, config: ScaleFreeFeaturesConfig) -> None:
        self.time_scales = config.time_scales
        self.num_context = 1 + len(MOMENTUM_DECAYS) + 3 + len(self.time_scales)

    def measured(self, values: Values, directions: Directions | None) -> list[Tensor]:
        """Return weight, gradient, momenta; root second moment; ratios to it."""
        assert directions is not None
        return [values.main, directions.root[None], directions.steps[:-1]]

    def context(
        self, scales: Tensor, steps: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """Return `[tensor, num_context]`."""
        logs = torch.cat([scales[-(NUM_DIRECTIONS - 1) :], scales[:1]]).log()
        logs = logs.clamp(-2 * _LIMIT, _LIMIT) / 2
        counts = constant([log(max(prod(shape), 1)) / 10 for shape in shapes], steps)
        axes = constant([min(len(shape), 4) / 4 for shape in shapes], steps)
        clock = torch.tanh((steps - 1) / column(self.time_scales, steps[None]) - 1)
        return torch.cat([logs, counts[None], axes[None], clock]).T

    def __call__(
        self, values: Values, directions: Directions | None, scales: Tensor
    ) -> Tensor:
        """Return `[15, *entries]`."""
        assert directions is not None
        count = len(values.main)
        root = directions.root[None] / scales[count : count + 1]
        ratios = torch.div, values.main, scales[:count]
        entries = joined(directions.steps, ratios, (torch.log, root))
        return clamped(entries, _LIMIT)


def build_features(config: FeaturesConfig) -> Features:
    """Return the features that `config` describes."""
    match config:
        case LogSignFeaturesConfig():
            return LogSignFeatures()
        case ScaleFreeFeaturesConfig():
            return ScaleFreeFeatures(config)
        case _:
            assert_never(config)
