"""From gradients to momenta, and from momenta to what the learned network reads.

The state of one parameter is `{"step", "momenta", "second_moment"}`: exponential
moving averages of the gradient at five decays and of its square at one, without bias
correction, in the parameter's shape. So a checkpoint depends on neither the rule's
features nor the graph.
"""

from math import log
from typing import Protocol, TypeAlias, assert_never, runtime_checkable

import torch
from torch import Tensor

from .config import FeaturesConfig, LogSignFeaturesConfig, ScaleFreeFeaturesConfig

ParameterState: TypeAlias = dict[str, Tensor]

MOMENTUM_DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)
"""Decays of the gradient averages (Kofinas et al., 2024, section 4.3)."""
ADAM_MOMENTUM = MOMENTUM_DECAYS.index(0.9)
"""Which of them is Adam's first moment."""
SECOND_MOMENT_DECAY = 0.999
"""Decay of the average of squared gradients: Adam's."""
ADAM_EPS = 1e-8
"""Added to the root of the second moment, as Adam does."""

_TINY = 1e-30
"""Inside roots of mean squares, so that zeros have a finite derivative."""
_LIMIT = 5.0
"""Features are clipped to this magnitude."""


def init_parameter_state(param: Tensor) -> ParameterState:
    """Return the state before the first step: zeros, in `param`'s dtype and device.

    Args:
        param: the parameter, of any shape; only its shape, dtype and device matter.
    """
    return {
        "step": torch.zeros((), dtype=torch.float32, device=param.device),
        "momenta": torch.zeros(
            len(MOMENTUM_DECAYS), *param.shape, dtype=param.dtype, device=param.device
        ),
        "second_moment": torch.zeros(
            param.shape, dtype=param.dtype, device=param.device
        ),
    }


def advance_parameter_state(state: ParameterState, grad: Tensor) -> ParameterState:
    """Return the state after one more gradient. Pure."""
    momenta = state["momenta"]
    decays = _column(MOMENTUM_DECAYS, momenta)
    second = state["second_moment"]
    return {
        "step": state["step"] + 1,
        "momenta": decays * momenta + (1 - decays) * grad,
        "second_moment": SECOND_MOMENT_DECAY * second
        + (1 - SECOND_MOMENT_DECAY) * grad * grad,
    }


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return `values` along a first axis that broadcasts against `like`."""
    column = torch.tensor(values, dtype=like.dtype, device=like.device)
    return column.reshape(-1, *[1] * (like.ndim - 1))


def adam_ratios(state: ParameterState) -> tuple[Tensor, Tensor]:
    """Return bias-corrected momenta over the root second moment, and that root.

    Returns:
        `[decay, *shape]`, in units of Adam's step (row `ADAM_MOMENTUM` is Adam's
        direction), and `[*shape]`, in units of the gradient.
    """
    # A parameter that never had a gradient is at step 0, where 1 - decay**0 is zero.
    step = state["step"].to(state["momenta"].dtype).clamp_min(1)
    decays = _column(MOMENTUM_DECAYS, state["momenta"])
    correction = 1 - decays**step
    root = (state["second_moment"] / (1 - SECOND_MOMENT_DECAY**step) + _TINY).sqrt()
    root = root + ADAM_EPS
    return state["momenta"] / (correction * root), root


@runtime_checkable
class Features(Protocol):
    """What the learned network reads of one parameter tensor."""

    num_features: int
    """Channels an entry."""
    num_context: int
    """Channels that the whole tensor shares."""

    def __call__(
        self, param: Tensor, grad: Tensor, state: ParameterState
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
        self, param: Tensor, grad: Tensor, state: ParameterState
    ) -> tuple[Tensor, Tensor]:
        """Return `[*shape, 14]` and an empty context."""
        decays = _column(MOMENTUM_DECAYS, state["momenta"])
        sums = state["momenta"] / (1 - decays)
        values = torch.cat([param[None], grad[None], sums])
        return _log_sign(values).movedim(0, -1), param.new_zeros(0)


def _log_sign(values: Tensor, p: float = 10.0) -> Tensor:
    """Return `[2n, *shape]` from `[n, *shape]`: magnitudes, then signs."""
    floor = torch.exp(torch.tensor(-p, dtype=values.dtype, device=values.device))
    size = values.abs()
    is_large = size >= floor
    magnitude = torch.where(is_large, size.clamp_min(floor).log() / p, -1.0)
    sign = torch.where(is_large, values.sign(), values / floor)
    return torch.cat([magnitude, sign])


class ScaleFreeFeatures:
    """Features that survive a rescaling of the loss or of a tensor.

    An entry has 14 channels: gradient and five bias-corrected momenta, each over the
    root of the second moment (how sure is the sign?); weight, gradient and momenta,
    each over its root mean square in the tensor (how large is this entry beside the
    others?); and the logarithm of its root second moment beside the tensor's. A
    tensor's context holds the logarithms of the root mean squares of the six ratios
    (how much signal is in the gradients?) and of the weight, its number of entries,
    and a clock.
    """

    num_features = 2 + 2 * (1 + len(MOMENTUM_DECAYS))

    def __init__(self, config: ScaleFreeFeaturesConfig) -> None:
        self.time_scales = config.time_scales
        self.num_context = 1 + len(MOMENTUM_DECAYS) + 2 + len(self.time_scales)

    def __call__(
        self, param: Tensor, grad: Tensor, state: ParameterState
    ) -> tuple[Tensor, Tensor]:
        """Return `[*shape, 14]` and `[num_context]`."""
        momentum_ratios, root = adam_ratios(state)
        ratios = torch.cat([(grad / root)[None], momentum_ratios])
        values = torch.cat([param[None], grad[None], state["momenta"]])
        entry = torch.cat(
            [
                ratios,
                values / _rms(values),
                (root / _rms(root[None])[0]).log()[None],
            ]
        )
        entry = entry.clamp(-_LIMIT, _LIMIT).movedim(0, -1)
        return entry, self._context(param, ratios, state["step"])

    def _context(self, param: Tensor, ratios: Tensor, step: Tensor) -> Tensor:
        signal = _rms(ratios).flatten().log()
        weight = _rms(param[None]).flatten().log()
        count = param.new_full((1,), log(param.numel()) / 10)
        scales = param.new_tensor(self.time_scales)
        clock = torch.tanh((step.to(param.dtype) - 1) / scales - 1)
        logs = torch.cat([signal, weight]).clamp(-2 * _LIMIT, _LIMIT) / 2
        return torch.cat([logs, count, clock])


def _rms(values: Tensor) -> Tensor:
    """Root mean square over all axes but the first, which stays; others become 1."""
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    rms = (flat.square().mean(1) + _TINY).sqrt()
    return rms.reshape(-1, *[1] * (values.ndim - 1))


def build_features(config: FeaturesConfig) -> Features:
    """Return the features that `config` describes."""
    match config:
        case LogSignFeaturesConfig():
            return LogSignFeatures()
        case ScaleFreeFeaturesConfig():
            return ScaleFreeFeatures(config)
        case _:
            assert_never(config)
