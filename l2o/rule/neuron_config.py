"""Configuration of the neuron-level rule."""

from dataclasses import field
from typing import Literal

from l2o.config import check_positive, frozen_config
from l2o.nets.config import NeuronGNNConfig

from .newton_schulz import GROUP_ROWS

_MOST_WHITENING_STEPS = 20
"""More change nothing but the time of a step."""


@frozen_config
class NeuronRuleConfig:
    """A learned network that scales the steps of tensors and neurons.

    Example:
        >>> config = NeuronRuleConfig(net=NeuronGNNConfig(width=32))
        >>> config.map_direction
        'whitened'
    """

    kind: Literal["neuron"] = "neuron"
    net: NeuronGNNConfig | None = field(default_factory=NeuronGNNConfig)
    """The learned network; None for rates by role and a schedule alone."""
    step_size: float = 0.01
    """Learning rate of the optimizer that an untrained rule is, in the units below."""
    momentum_decays: tuple[float, ...] = (0.9, 0.99)
    """Decays of the averages of gradients: first the momentum of an untrained rule,
    then slower ones for the network to mix in."""
    second_moment_decay: float = 0.999
    """Decay of the average of squared gradients."""
    map_direction: Literal["whitened", "adam", "momentum"] = "whitened"
    """Direction of linear maps: the whitened momentum; Adam's; or the momentum over the
    root mean square of the matrix's gradients. All else follows Adam."""
    look_ahead: float = 0.1
    """Least share of the gradient in a linear map's momentum; with 1 minus the first
    decay it is Nesterov's look ahead."""
    whitening_scale: Literal["unit", "spectral"] = "unit"
    """Size of a whitened direction: a root mean square of 1, or that of a matrix whose
    singular values are all about 1, times the root of its longer side, as
    `torch.optim.Muon` has it. They differ by a few percent."""
    whitening_steps: int = 4
    """Newton-Schulz steps. A fifth one, as Muon has it, would lift the rounding errors
    of bfloat16 gradients of low rank too far."""
    whitening_rows: int = GROUP_ROWS
    """Most rows of a linear map, or columns if these are fewer, whose momentum is
    whitened together; of more, groups are, up to the last step."""
    signal_floor: float = 0.05
    """Root mean square of a linear map's momentum over that of its gradients, below
    which the whitened step shrinks with it: so neither rounding errors nor the rest of
    vanishing gradients are whitened to full size. Pure noise is at 0.27. 0 turns it
    off."""
    fresh_floor: float = 0.2
    """Root mean square of a linear map's gradient over that of its momentum, below
    which the whitened step shrinks with it: a step without gradients moves no map. 0
    turns it off."""
    max_log_scale: float = 6.0
    """Bound on the logarithm of a matrix's scale, approached smoothly."""
    max_log_line: float = 2.0
    """Bound on the logarithm of the scale of a row or column, approached smoothly."""
    unit: Literal["one", "fan_in"] = "fan_in"
    """As for `NominalHeadConfig`."""
    full_fan_in: float = 16.0
    """As for `NominalHeadConfig`."""
    time_scales: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4)
    """Time constants, in steps, of the clock features tanh(t / scale - 1)."""

    def __post_init__(self) -> None:
        check_positive(
            "NeuronRuleConfig",
            step_size=self.step_size,
            whitening_steps=self.whitening_steps,
            whitening_rows=self.whitening_rows,
            max_log_scale=self.max_log_scale,
            max_log_line=self.max_log_line,
            full_fan_in=self.full_fan_in,
        )
        for scale in self.time_scales:
            check_positive("NeuronRuleConfig", time_scales=scale)
        if self.whitening_steps > _MOST_WHITENING_STEPS:
            raise ValueError(
                "NeuronRuleConfig whitening_steps must be at most "
                f"{_MOST_WHITENING_STEPS}; got whitening_steps={self.whitening_steps}. "
                "Choose for example 5."
            )
        shares = {
            "second_moment_decay": self.second_moment_decay,
            "look_ahead": self.look_ahead,
            "signal_floor": self.signal_floor,
            "fresh_floor": self.fresh_floor,
        }
        decays = {
            f"momentum_decays[{i}]": d for i, d in enumerate(self.momentum_decays)
        }
        for name, value in {**shares, **decays}.items():
            if not 0 <= value < 1:
                raise ValueError(
                    f"NeuronRuleConfig {name} must be from 0 to below 1; got "
                    f"{name}={value}. Choose for example 0.9 for a decay."
                )
        if not self.momentum_decays:
            raise ValueError(
                "NeuronRuleConfig momentum_decays must hold at least one decay; got "
                "momentum_decays=(). Add one, for example 0.9."
            )
