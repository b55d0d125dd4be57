"""What the learned network reads of entries and of their tensors."""

from collections.abc import Sequence
from math import log, prod
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from l2o.config import HasKind, Positive, frozen_config
from l2o.nets.fast_ops import clamped, joined

from .directions import Directions, DirectionSet, Values
from .state import column, constant

_LIMIT = 5.0
"""Features are clipped to this magnitude."""


@runtime_checkable
class Features(Protocol):
    """What the learned network reads of some entries, and of their tensors."""

    num_features: int
    """Channels per entry."""
    num_context: int
    """Channels per tensor, which all of its entries share."""
    num_scales: int
    """How many root mean squares of a tensor the features need."""
    uses_directions: bool
    """Whether the features read directions."""

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


@runtime_checkable
class FeaturesConfig(HasKind, Protocol):
    """A configuration that builds features."""

    def build(self, directions: DirectionSet) -> Features:
        """Return the features over these directions and their averages."""
        ...


@frozen_config
class LogSignFeaturesConfig:
    """The paper's features: log-magnitude and sign of weight, gradient, momenta."""

    kind: Literal["log_sign"] = "log_sign"

    def build(self, directions: DirectionSet) -> Features:
        """Return the features."""
        return LogSignFeatures(directions)


@frozen_config
class ScaleFreeFeaturesConfig:
    """Features that do not change when the loss or a tensor is rescaled."""

    kind: Literal["scale_free"] = "scale_free"
    time_scales: tuple[Positive[float], ...] = (
        10.0,
        30.0,
        100.0,
        300.0,
        1e3,
        3e3,
        1e4,
        3e4,
    )
    """Time constants, in steps, of the clock features tanh(t / scale - 1)."""

    def build(self, directions: DirectionSet) -> Features:
        """Return the features."""
        return ScaleFreeFeatures(self, directions)


AnyFeaturesConfig: TypeAlias = (
    LogSignFeaturesConfig | ScaleFreeFeaturesConfig | FeaturesConfig
)
"""Features that rule files name, and any other `FeaturesConfig`."""


class LogSignFeatures:
    """The paper's features: log-magnitude and sign of weight, gradient and momenta.

    With five momenta there are 14. Momenta are accumulated as `m <- decay * m + g`. A
    number x becomes `(log|x| / p, sign x)`, or `(-1, e^p x)` below `e^-p`.

    Args:
        directions: whose averages are read; no direction is.

    Reference:
        Andrychowicz et al., 2016, "Learning to learn by gradient descent by gradient
        descent", https://arxiv.org/abs/1606.04474, appendix A; p = 10.
    """

    num_context = 0
    num_scales = 0
    uses_directions = False

    def __init__(self, directions: DirectionSet) -> None:
        self.decays = directions.averages.momentum_decays
        self.num_features = 2 * (2 + len(self.decays))

    def measured(self, values: Values, directions: Directions | None) -> list[Tensor]:
        """Return no scales: no entry is compared with its tensor."""
        return []

    def context(
        self, scales: Tensor, steps: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """Return an empty context."""
        return steps.new_zeros(len(shapes), 0)

    def __call__(
        self, values: Values, directions: Directions | None, scales: Tensor
    ) -> Tensor:
        """Return `[num_features, *entries]`."""
        decays = column(self.decays, values.main)
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

    The channels of an entry: the directions (a momentum over the root of the second
    moment tells how certain its sign is); weight, gradient and momenta, each over its
    root mean square in the tensor (how large is this entry compared with the others?);
    and the logarithm of its root second moment over the tensor's. A tensor's context
    holds the logarithms of the root mean squares of its directions (how much signal is
    there?) and of the weight, its number of entries and of axes, and a clock. With the
    default directions an entry has 15 channels.

    Args:
        config: the clock.
        directions: what is read.
    """

    uses_directions = True

    def __init__(
        self, config: ScaleFreeFeaturesConfig, directions: DirectionSet
    ) -> None:
        self.time_scales = config.time_scales
        self.measured_rows = directions.measured_rows
        num_main = 2 + directions.averages.num_momenta
        self.num_features = len(directions) + num_main + 1
        self.num_scales = num_main + 1 + len(self.measured_rows)
        self.num_context = len(self.measured_rows) + 3 + len(self.time_scales)

    def measured(self, values: Values, directions: Directions | None) -> list[Tensor]:
        """Return weight, gradient, momenta; root second moment; directions."""
        assert directions is not None
        rows = self.measured_rows
        is_start = rows == list(range(len(rows)))
        steps = directions.steps[: len(rows)] if is_start else directions.steps[rows]
        return [values.main, directions.root[None], steps]

    def context(
        self, scales: Tensor, steps: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """Return `[tensor, num_context]`."""
        first = self.num_scales - len(self.measured_rows)
        logs = torch.cat([scales[first:], scales[:1]]).log()
        logs = logs.clamp(-2 * _LIMIT, _LIMIT) / 2
        counts = constant([log(max(prod(shape), 1)) / 10 for shape in shapes], steps)
        axes = constant([min(len(shape), 4) / 4 for shape in shapes], steps)
        clock = torch.tanh((steps - 1) / column(self.time_scales, steps[None]) - 1)
        return torch.cat([logs, counts[None], axes[None], clock]).T

    def __call__(
        self, values: Values, directions: Directions | None, scales: Tensor
    ) -> Tensor:
        """Return `[num_features, *entries]`."""
        assert directions is not None
        count = len(values.main)
        root = directions.root[None] / scales[count : count + 1]
        ratios = torch.div, values.main, scales[:count]
        entries = joined(directions.steps, ratios, (torch.log, root))
        return clamped(entries, _LIMIT)
