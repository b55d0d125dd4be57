"""What a rule is made of: features, network, update head."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from l2o.nets import (
    FeedForwardConfig,
    LSTMConfig,
    NetConfig,
    NFNConfig,
    NGGNNConfig,
    NGTConfig,
)
from l2o.nets.config import check_positive

from .whitening import GROUP_ROWS

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class LogSignFeaturesConfig:
    """The paper's features: log-magnitude and sign of weight, gradient, momenta."""

    __pydantic_config__: ClassVar = _STRICT

    kind: Literal["log_sign"] = "log_sign"


@dataclass(frozen=True, kw_only=True)
class ScaleFreeFeaturesConfig:
    """Features that do not change when the loss or a tensor is rescaled."""

    __pydantic_config__: ClassVar = _STRICT

    kind: Literal["scale_free"] = "scale_free"
    time_scales: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4)
    """Time constants, in steps, of the clock features tanh(t / scale - 1)."""


@dataclass(frozen=True, kw_only=True)
class PaperHeadConfig:
    """The paper's update: `0.01 * s * exp(0.01 * m)`, sign learned."""

    __pydantic_config__: ClassVar = _STRICT

    kind: Literal["paper"] = "paper"
    step_size: float = 0.01
    """Factor of the update and of the exponent."""

    def __post_init__(self) -> None:
        check_positive("PaperHeadConfig", step_size=self.step_size)


@dataclass(frozen=True, kw_only=True)
class NominalHeadConfig:
    """A hand-designed update with others added, scaled by what the network says."""

    __pydantic_config__: ClassVar = _STRICT

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


@dataclass(frozen=True, kw_only=True)
class RuleConfig:
    """A learned network with the features it reads and the head that it feeds.

    Example:
        >>> config = RuleConfig(net=NGGNNConfig(width=16, layers=2))
        >>> config.head.kind
        'nominal'
    """

    __pydantic_config__: ClassVar = _STRICT

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
    return asdict(config)


def rule_config_from_values(values: Mapping[str, Any]) -> RuleConfig:
    """Return the configuration that plain values describe, strictly.

    Raises:
        ValueError: if a key is unknown or missing, or a `kind` does not exist.
    """
    parts = dict(values)
    net = dict(_part(parts, "net"))
    if net.get("kind") != "ff" and "head" in net:
        net["head"] = _record((FeedForwardConfig,), net["head"])
    features = dict(_part(parts, "features"))
    if "time_scales" in features:
        features["time_scales"] = tuple(features["time_scales"])
    head = dict(_part(parts, "head"))
    if head.get("kind") == NominalHeadConfig.kind:
        # Files from before there was a choice.
        head.setdefault("unit", "one")
        head.setdefault("scaled", "adam")
    rows = parts.pop("whitening_rows", GROUP_ROWS)
    if parts:
        raise ValueError(
            "RuleConfig has net, features, head and whitening_rows; got also "
            f"{sorted(parts)}. "
            "Remove them, or load the file with the version of l2o that wrote it."
        )
    return RuleConfig(
        net=_record(get_args(NetConfig), net),
        features=_record((LogSignFeaturesConfig, ScaleFreeFeaturesConfig), features),
        head=_record((PaperHeadConfig, NominalHeadConfig), head),
        whitening_rows=rows,
    )


def _part(parts: dict[str, Any], name: str) -> Mapping[str, Any]:
    if name not in parts:
        raise ValueError(
            f"RuleConfig needs {name!r}; got only {sorted(parts)}. "
            "Write the configuration with save_rule."
        )
    return parts.pop(name)


def _record(choices: tuple[type[Any], ...], values: Mapping[str, Any]) -> Any:
    """Return the dataclass among `choices` whose `kind` the values name."""
    for choice in choices:
        if values.get("kind") == choice.kind:
            known = {field.name for field in fields(choice)}
            if not values.keys() <= known:
                raise ValueError(
                    f"{choice.__name__} has the fields {sorted(known)}; got also "
                    f"{sorted(values.keys() - known)}. Load the file with the version "
                    "of l2o that wrote it."
                )
            return choice(**values)
    kinds = [choice.kind for choice in choices]
    raise ValueError(
        f"RuleConfig needs one of the kinds {kinds}; got {values.get('kind')!r}. "
        "Load the file with the version of l2o that wrote it."
    )
