"""Configuration of a rule: averages, directions, features, network, head."""

import json
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from l2o import nets
from l2o.config import config_from_values, config_values, frozen_config
from l2o.nets.net import BuildsNet

from .directions import DIRECTIONS, AnyDirectionConfig, DirectionSet, WhitenedConfig
from .features import AnyFeaturesConfig, LogSignFeaturesConfig, ScaleFreeFeaturesConfig
from .head import AnyHeadConfig, NominalHeadConfig, PaperHeadConfig
from .state import Averages


@frozen_config
class RuleConfig:
    """A learned network with the features it reads and the head that it feeds.

    Every part is a configuration with a method `build`. Those listed in the unions
    `AnyDirectionConfig`, `AnyFeaturesConfig`, `AnyHeadConfig` and `NetConfig` have a
    `kind` by which rule files name them; others may be passed all the same.

    Example:
        >>> config = RuleConfig(net=nets.NGGNNConfig(width=16, layers=2))
        >>> config.head.kind
        'nominal'
    """

    net: nets.NetConfig | BuildsNet = field(default_factory=nets.NGGNNConfig)
    """The learned network."""
    features: AnyFeaturesConfig = field(default_factory=ScaleFreeFeaturesConfig)
    """What the network reads."""
    head: AnyHeadConfig = field(default_factory=NominalHeadConfig)
    """How the network's outputs per entry become an update."""
    directions: tuple[AnyDirectionConfig, ...] = DIRECTIONS
    """What features and head are made from, in order."""
    averages: Averages = Averages()
    """What a rule remembers of the gradients."""

    def __post_init__(self) -> None:
        self.direction_set()  # refuses directions that do not fit the averages

    def direction_set(self) -> DirectionSet:
        """Return the directions, built."""
        return DirectionSet(self.directions, self.averages)


def with_group_rows(config: RuleConfig, group_rows: int) -> RuleConfig:
    """Return a configuration that whitens momenta in groups of `group_rows` rows.

    Args:
        config: left as it is.
        group_rows: see `WhitenedConfig`.
    """
    directions = tuple(
        replace(item, group_rows=group_rows)
        if isinstance(item, WhitenedConfig)
        else item
        for item in config.directions
    )
    return replace(config, directions=directions)


def _relu(width: int, layers: int) -> nets.FeedForwardConfig:
    """Return a per-entry network of the paper."""
    return nets.FeedForwardConfig(width=width, layers=layers, activation="relu")


def _of_paper(net: nets.NetConfig) -> RuleConfig:
    """Return a network between the paper's features and head."""
    return RuleConfig(net=net, features=LogSignFeaturesConfig(), head=PaperHeadConfig())


PRESETS: dict[str, RuleConfig] = {
    "default": RuleConfig(),
    "default-ff": RuleConfig(net=nets.FeedForwardConfig()),
    "default-ng-t": RuleConfig(
        net=nets.NGTConfig(width=16, head=nets.FeedForwardConfig(width=16))
    ),
    "paper": _of_paper(
        nets.NGGNNConfig(
            width=64,
            layers=8,
            kernel=5,
            directions="shared",
            residual=False,
            head=nets.FeedForwardConfig(
                width=64, layers=8, activation="relu", init="kaiming"
            ),
        )
    ),
    "paper-ng-t": _of_paper(
        nets.NGTConfig(width=32, layers=2, heads=4, kernel=5, head=_relu(32, 2))
    ),
    "paper-ff": _of_paper(_relu(64, 2)),
    "paper-lstm": _of_paper(nets.LSTMConfig(width=32, head=_relu(32, 1))),
    "paper-nfn": _of_paper(
        nets.NFNConfig(
            width=32, layers=2, kernel=5, fourier_scale=3.0, head=_relu(32, 2)
        )
    ),
}
"""Named configurations: ours, and the paper's (section 4.3) with its best sizes."""


def rule_config_values(config: RuleConfig) -> dict[str, Any]:
    """Return a rule's configuration as plain values, ready for JSON."""
    return config_values(config)


def check_savable(config: RuleConfig) -> None:
    """Raise TypeError unless rule files can name every part of a configuration."""
    plain = json.loads(json.dumps(config_values(config), default=repr))
    try:
        is_same = rule_config_from_values(plain) == config
    except ValueError:
        is_same = False
    if not is_same:
        raise TypeError(
            "save_rule needs a configuration whose parts rule files name; got "
            f"{config}. Add the configuration of your part to its union (see "
            "CONTRIBUTING.md), or keep the rule's state_dict() with torch.save."
        )


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
    values, head = dict(values), values["head"]
    if isinstance(head, Mapping) and head.get("kind") == NominalHeadConfig.kind:
        # Files from before there was a choice.
        values["head"] = {"unit": "one", "scaled": "adam", **head}
    has_rows = "whitening_rows" in values  # where it stood in older files
    group_rows = values.pop("whitening_rows", None)
    config = config_from_values(RuleConfig, values)
    try:
        return with_group_rows(config, group_rows) if has_rows else config
    except TypeError as error:
        raise ValueError(str(error)) from error
