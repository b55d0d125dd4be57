"""What a rule is made of: features, network, update head."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, TypeAlias

from l2o.config import (
    check_positive,
    config_from_values,
    config_values,
    frozen_config,
)
from l2o.nets import (
    FeedForwardConfig,
    LSTMConfig,
    NetConfig,
    NFNConfig,
    NGGNNConfig,
    NGTConfig,
)

from .whitening import GROUP_ROWS


@frozen_config
class LogSignFeaturesConfig:
    """The paper's features: log-magnitude and sign of weight, gradient, momenta."""

    kind: Literal["log_sign"] = "log_sign"


@frozen_config
class ScaleFreeFeaturesConfig:
    """Features that do not change when the loss or a tensor is rescaled."""

    kind: Literal["scale_free"] = "scale_free"
    time_scales: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4)
    """Time constants, in steps, of the clock features tanh(t / scale - 1)."""

    def __post_init__(self) -> None:
        for scale in self.time_scales:
            check_positive("ScaleFreeFeaturesConfig", time_scales=scale)


@frozen_config
class PaperHeadConfig:
    """The paper's update: `0.01 * s * exp(0.01 * m)`, sign learned."""

    kind: Literal["paper"] = "paper"
    step_size: float = 0.01
    """Factor of the update and of the exponent."""

    def __post_init__(self) -> None:
        check_positive("PaperHeadConfig", step_size=self.step_size)


@frozen_config
class NominalHeadConfig:
    """A hand-designed update with others added, scaled by what the network says."""

    kind: Literal["nominal"] = "nominal"
    step_size: float = 0.01
    """Learning rate of the optimizer that an untrained rule is, in the units below."""
    base: Literal["adam", "whitened"] = "adam"
    """What an untrained rule is: `adam`; or `whitened`, the whitened momentum for
    linear maps and Adam for the rest. A rule that is to follow the latter need not take
    Adam's direction away again, which fails where gradients are steadier than any that
    it has learned from."""
    max_deviation: float | None = None
    """How much the others may add to an entry of the base or take from it, as a part of
    that entry; below 1 no entry of an update ever opposes the base. None is no limit:
    then a rule may go uphill where it meets gradients unlike any that it has learned
    from."""
    max_log_scale: float = 6.0
    """Bound on the learned logarithm of a step's scale, approached smoothly."""
    scaled: Literal["adam", "all"] = "all"
    """What the learned scale multiplies: `adam`, the base alone, with the others added
    as they are; or `all`, their sum, so that a rule that lowers its rate keeps its
    direction."""
    unit: Literal["one", "fan_in"] = "fan_in"
    """What updates of a linear map are multiples of: `one` whatever its size; or with
    `fan_in` sqrt(full_fan_in / inputs), at most 1, which is how initial weights are
    scaled, so that one rule fits narrow and wide layers. Other parameters have 1."""
    full_fan_in: float = 16.0
    """Most inputs of a map whose unit is 1, with `unit: fan_in`; of a convolution only
    those count that are new at each position."""

    def __post_init__(self) -> None:
        check_positive(
            "NominalHeadConfig",
            step_size=self.step_size,
            max_log_scale=self.max_log_scale,
            full_fan_in=self.full_fan_in,
        )
        if self.max_deviation is not None:
            check_positive("NominalHeadConfig", max_deviation=self.max_deviation)


FeaturesConfig: TypeAlias = LogSignFeaturesConfig | ScaleFreeFeaturesConfig
HeadConfig: TypeAlias = PaperHeadConfig | NominalHeadConfig


@frozen_config
class RuleConfig:
    """A learned network with the features it reads and the head that it feeds.

    Example:
        >>> config = RuleConfig(net=NGGNNConfig(width=16, layers=2))
        >>> config.head.kind
        'nominal'
    """

    net: NetConfig = field(default_factory=NGGNNConfig)
    """The learned network."""
    features: FeaturesConfig = field(default_factory=ScaleFreeFeaturesConfig)
    """What the network reads."""
    head: HeadConfig = field(default_factory=NominalHeadConfig)
    """How its numbers of an entry become an update."""
    whitening_rows: int = GROUP_ROWS
    """Most rows of a linear map, or columns if these are fewer, whose momentum is
    whitened together; of more, groups are, up to the last step. It bounds what a wide
    layer costs an entry."""

    def __post_init__(self) -> None:
        check_positive("RuleConfig", whitening_rows=self.whitening_rows)


_PAPER_FF = FeedForwardConfig(width=64, layers=2, activation="relu")

PRESETS: dict[str, RuleConfig] = {
    "default": RuleConfig(),
    "default-ff": RuleConfig(net=FeedForwardConfig()),
    "paper": RuleConfig(
        net=NGGNNConfig(
            width=64,
            layers=8,
            kernel=5,
            directions="shared",
            residual=False,
            head=FeedForwardConfig(
                width=64, layers=8, activation="relu", init="kaiming"
            ),
        ),
        features=LogSignFeaturesConfig(),
        head=PaperHeadConfig(),
    ),
    "paper-ng-t": RuleConfig(
        net=NGTConfig(
            width=32,
            layers=2,
            heads=4,
            kernel=5,
            head=FeedForwardConfig(width=32, layers=2, activation="relu"),
        ),
        features=LogSignFeaturesConfig(),
        head=PaperHeadConfig(),
    ),
    "paper-ff": RuleConfig(
        net=_PAPER_FF, features=LogSignFeaturesConfig(), head=PaperHeadConfig()
    ),
    "paper-lstm": RuleConfig(
        net=LSTMConfig(
            width=32, head=FeedForwardConfig(width=32, layers=1, activation="relu")
        ),
        features=LogSignFeaturesConfig(),
        head=PaperHeadConfig(),
    ),
    "paper-nfn": RuleConfig(
        net=NFNConfig(
            width=32,
            layers=2,
            kernel=5,
            fourier_scale=3.0,
            head=FeedForwardConfig(width=32, layers=2, activation="relu"),
        ),
        features=LogSignFeaturesConfig(),
        head=PaperHeadConfig(),
    ),
}
"""Named configurations: ours, and the paper's (section 4.3) with its best sizes."""


def rule_config_values(config: RuleConfig) -> dict[str, Any]:
    """Return a rule's configuration as plain values, ready for JSON."""
    return config_values(config)


def rule_config_from_values(values: Mapping[str, Any]) -> RuleConfig:
    """Return the configuration that plain values describe, strictly.

    Raises:
        ValueError: if a key is unknown, one of net, features and head is missing, a
            `kind` does not exist, or a value has the wrong type or is out of range.
    """
    missing = sorted({"net", "features", "head"} - values.keys())
    if missing:
        raise ValueError(
            f"RuleConfig needs {missing}; got only {sorted(values)}. "
            "Write the configuration with save_rule."
        )
    head = values["head"]
    if isinstance(head, Mapping) and head.get("kind") == NominalHeadConfig.kind:
        # Files from before there was a choice.
        head = {"unit": "one", "scaled": "adam", **head}
    return config_from_values(RuleConfig, {**values, "head": head})
