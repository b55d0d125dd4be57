"""Rules from their configurations."""

from collections.abc import Mapping
from typing import Any, TypeAlias, assert_never

from l2o.config import config_from_values, config_values

from .config import RuleConfig, rule_config_from_values
from .neuron_config import NeuronRuleConfig
from .neuron_rule import NeuronRule
from .rule import Rule

AnyRuleConfig: TypeAlias = RuleConfig | NeuronRuleConfig
"""Configuration of a rule that the library builds."""
AnyRule: TypeAlias = Rule | NeuronRule
"""A rule that the library builds from its configuration, saves and loads."""


def build_rule(config: AnyRuleConfig) -> AnyRule:
    """Return the rule that `config` describes, untrained.

    Example:
        >>> build_rule(NeuronRuleConfig()).step_size
        0.01
    """
    match config:
        case RuleConfig():
            return Rule(config)
        case NeuronRuleConfig():
            return NeuronRule(config)
        case _:
            assert_never(config)


def any_rule_config_values(config: AnyRuleConfig) -> dict[str, Any]:
    """Return a rule's configuration as plain values, ready for JSON."""
    return config_values(config)


def any_rule_config_from_values(values: Mapping[str, Any]) -> AnyRuleConfig:
    """Return the configuration that plain values describe, strictly.

    Raises:
        ValueError: as `rule_config_from_values` does.
    """
    if values.get("kind") == NeuronRuleConfig.kind:
        return config_from_values(NeuronRuleConfig, values)
    return rule_config_from_values(values)
