"""What competes in a contest: opponents at a learning rate, rules, their teacher."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from l2o import NeuralGraphOpt, Rule, load_rule, read_provenance
from l2o.rule.build import AnyRule
from l2o.rule.config import NominalHeadConfig, with_group_rows
from l2o.rule.neuron_rule import NeuronRule
from l2o.rule_metadata import rule_path

from .opponents import build_opponent, find_opponent

ADAM_LR = 1e-2
"""Adam's learning rate with the best validation accuracy in the fashion benchmark."""

StateType = Literal["float32", "bfloat16"]


class OptimizerSpec(Protocol):
    """An optimizer of a contest, complete but for the network it trains."""

    @property
    def label(self) -> str:
        """A short name for one run."""
        ...

    @property
    def package(self) -> str | None:
        """Package that provides it; None for PyTorch and this one."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return what a row says of it, as JSON values.

        Keys: `optimizer`, `lr`, `settings`, `rule_sha256`, `rule`.
        """
        ...

    def build(self, model: nn.Module, steps: int) -> Optimizer:
        """Build the optimizer of one network.

        Args:
            model: the network.
            steps: length of the run, for schedules that end with it.

        Raises:
            ModuleNotFoundError: if it needs a package that is not installed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OpponentSpec(OptimizerSpec):
    """An opponent at a learning rate."""

    name: str
    """A key of `OPPONENTS`."""
    lr: float
    """Learning rate."""

    @property
    @override
    def label(self) -> str:
        return f"{find_opponent(self.name).title}, lr {self.lr:g}"

    @property
    @override
    def package(self) -> str | None:
        return find_opponent(self.name).package

    @override
    def identity(self) -> dict[str, Any]:
        return {
            "optimizer": self.name,
            "lr": self.lr,
            "settings": dict(find_opponent(self.name).settings),
            "rule_sha256": None,
            "rule": None,
        }

    @override
    def build(self, model: nn.Module, steps: int) -> Optimizer:
        return build_opponent(self.name, self.lr, model, steps)


@dataclass(frozen=True, kw_only=True)
class TeacherSpec(OptimizerSpec):
    """The hand-designed optimizer that the shipped rules imitated, as a rule."""

    name: ClassVar = "teacher"
    matrix_rate: float = 0.65
    """Rate of linear maps, as in the shipped rules' configurations."""
    unit: Literal["one", "fan_in"] = "fan_in"
    """What the rate is a multiple of."""

    @property
    @override
    def label(self) -> str:
        return self.name

    @override
    def identity(self) -> dict[str, Any]:
        return {
            "optimizer": self.name,
            "lr": None,
            "settings": asdict(self),
            "rule_sha256": None,
            "rule": None,
        }

    @override
    def build(self, model: nn.Module, steps: int) -> Optimizer:
        from meta_train.estimator_config import ImitationConfig  # extra [train]
        from meta_train.teacher import Teacher

        rule = Teacher(
            ImitationConfig(matrix_rate=self.matrix_rate),
            units=NominalHeadConfig(unit=self.unit).units,
        )
        return NeuralGraphOpt(model.parameters(), rule=rule)


@dataclass(frozen=True, kw_only=True)
class RuleSettings:
    """How a rule is run; the defaults are the rule's own."""

    state: StateType = "float32"
    """Type of its averages."""
    whitening_rows: int | None = None
    """Most rows of a linear map that are whitened together; None for the rule's own."""
    average: bool = False
    """Whether the averaged weights are evaluated, not those that the steps visit."""
    scale: float = 1.0
    """Multiplier of its updates, the optimizer's `lr`."""
    knows_length: bool = False
    """Whether it is told the number of steps, as `total_steps`."""
    told_share: float = 1.0
    """Multiple of the number of steps that it is told; others than 1 are mistakes."""

    def differing(self) -> dict[str, Any]:
        """Return the settings that are not the defaults, which rows do not mention."""
        usual = asdict(RuleSettings())
        return {
            key: value for key, value in asdict(self).items() if value != usual[key]
        }


@dataclass(frozen=True, kw_only=True)
class RuleSpec(OptimizerSpec):
    """A rule as it was meta-trained; `rule_spec` reads it from the rule's file."""

    name: str
    """A shipped rule's name, or the path of a rule file."""
    sha256: str
    """Checksum of the rule's file."""
    kind: str
    """Kind of network."""
    commit: str
    """Commit that made the rule."""
    recipe: str | None = None
    """Name of the configuration that it was meta-trained by."""
    meta_seed: int | None = None
    """Seed of that run."""
    chosen_on: str | None = None
    """Images that chose it among the rules of its run; None for the last of them."""
    settings: RuleSettings = RuleSettings()
    """How it is run."""

    @property
    @override
    def label(self) -> str:
        return self.name + in_words(self.settings.differing())

    @override
    def identity(self) -> dict[str, Any]:
        values = asdict(self)
        rule = {key: values[key] for key in values if key not in ("name", "settings")}
        return {
            "optimizer": self.name,
            "lr": None,
            "settings": self.settings.differing(),
            "rule_sha256": self.sha256,
            "rule": rule,
        }

    @override
    def build(self, model: nn.Module, steps: int) -> Optimizer:
        settings = self.settings
        rows = settings.whitening_rows
        rule = self.name if rows is None else _with_rows(load_rule(self.name), rows)
        told = max(1, round(settings.told_share * steps))
        return NeuralGraphOpt(
            model.parameters(),
            lr=settings.scale,
            rule=rule,
            state_dtype=torch.bfloat16 if settings.state == "bfloat16" else None,
            total_steps=told if settings.knows_length else None,
            average=settings.average,
        )


def rule_spec(name_or_path: str, settings: RuleSettings | None = None) -> RuleSpec:
    """Return a shipped rule by its name, or a rule from a file.

    Args:
        name_or_path: which.
        settings: how it is run; None for the defaults.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if the file holds no rule.
    """
    origin = read_provenance(name_or_path)
    run = origin.get("config", {})
    net = load_rule(name_or_path).config.net
    return RuleSpec(
        name=name_or_path,
        sha256=hashlib.sha256(rule_path(name_or_path).read_bytes()).hexdigest(),
        kind="none" if net is None else net.kind,
        commit=origin.get("commit", "unknown"),
        recipe=run.get("name"),
        meta_seed=run.get("seed"),
        chosen_on=origin.get("chosen_on"),
        settings=RuleSettings() if settings is None else settings,
    )


_WORDS = {
    "state": "{} state",
    "whitening_rows": "whitened by {} rows",
    "average": "averaged weights",
    "scale": "updates x {:g}",
    "told_share": "told {:g} times the number of steps",
    "knows_length": "knows the number of steps",
}
"""What is said of each setting that differs."""


def in_words(settings: Mapping[str, Any]) -> str:
    """Return a suffix for a rule's name that names the settings that differ."""
    known = [name for name in _WORDS if name in settings]
    if "told_share" in known:
        known.remove("knows_length")
    return "".join(f", {_WORDS[name].format(settings[name])}" for name in known)


def _with_rows(known: AnyRule, rows: int) -> AnyRule:
    """Return a rule with the same weights that whitens at most `rows` rows together."""
    if isinstance(known, NeuronRule):
        rule = NeuronRule(replace(known.config, whitening_rows=rows))
    else:
        rule = Rule(with_group_rows(known.config, rows))
    rule.load_state_dict(known.state_dict())
    return rule
