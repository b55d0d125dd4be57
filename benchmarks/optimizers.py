"""The optimizers under comparison: hand-designed ones, and rules as they are."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias, assert_never

import torch
from torch import nn
from torch.optim import Optimizer

from l2o import NeuralGraphOpt, Rule, load_rule, read_provenance
from l2o.rule.build import AnyRule
from l2o.rule.config import NominalHeadConfig, with_group_rows
from l2o.rule.neuron_rule import NeuronRule
from l2o.rule_metadata import rule_path

from .baselines import SGD, Adam, AdamW, Baseline, Muon, ScheduleFree, build_baseline

ADAM_LR = 1e-2
"""Adam's learning rate with the best validation accuracy in the fashion benchmark."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The hand-designed optimizer that the shipped rules imitated."""

    name: ClassVar = "teacher"
    matrix_rate: float = 0.65
    """Rate of linear maps, as the shipped rules' configurations have it."""
    unit: Literal["one", "fan_in"] = "fan_in"
    """What it is a multiple of."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A rule as it was meta-trained; `learned` builds the record."""

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
    state: Literal["float32", "bfloat16"] = "float32"
    """In what type its averages are kept."""
    structure_every: int = 1
    """How many steps its network's outputs serve."""
    whitening_rows: int | None = None
    """Most rows of a linear map that are whitened together; None for the rule's own."""


_PLAIN = {"state": "float32", "structure_every": 1, "whitening_rows": None}
"""Settings of a rule as it is, which rows do not mention."""

Contender: TypeAlias = Baseline | Teacher | Learned


def learned(
    name_or_path: str,
    state: Literal["float32", "bfloat16"] = "float32",
    structure_every: int = 1,
    whitening_rows: int | None = None,
) -> Learned:
    """Return a shipped rule by its name, or a rule from a file.

    Args:
        name_or_path: which.
        state: in what type its averages are kept.
        structure_every: how many steps its network's outputs serve.
        whitening_rows: most rows of a linear map that are whitened together; None for
            what the rule's configuration says.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if the file holds no rule.
    """
    origin = read_provenance(name_or_path)
    run = origin.get("config", {})
    return Learned(
        name=name_or_path,
        sha256=hashlib.sha256(rule_path(name_or_path).read_bytes()).hexdigest(),
        kind=load_rule(name_or_path).config.net.kind,
        commit=origin.get("commit", "unknown"),
        recipe=run.get("name"),
        meta_seed=run.get("seed"),
        chosen_on=origin.get("chosen_on"),
        state=state,
        structure_every=structure_every,
        whitening_rows=whitening_rows,
    )


def build_optimizer(contender: Contender, model: nn.Module, steps: int) -> Optimizer:
    """Build the optimizer of one network.

    Args:
        contender: which.
        model: the network.
        steps: length of the run; rules are not told.

    Raises:
        ModuleNotFoundError: if the contender needs a package that is not installed.
    """
    match contender:
        case Learned(name=name, state=state, structure_every=every):
            return NeuralGraphOpt(
                model.parameters(),
                rule=_rule_of(name, contender.whitening_rows),
                state_dtype=torch.bfloat16 if state == "bfloat16" else None,
                structure_every=every,
            )
        case Teacher(matrix_rate=rate, unit=unit):
            from meta_train.estimator_config import ImitationConfig  # extra [train]
            from meta_train.teacher import Teacher as TeacherRule

            rule = TeacherRule(
                ImitationConfig(matrix_rate=rate),
                units=NominalHeadConfig(unit=unit).units,
            )
            return NeuralGraphOpt(model.parameters(), rule=rule)
        case Adam() | AdamW() | SGD() | Muon() | ScheduleFree():
            return build_baseline(contender, model, steps)
        case _:
            assert_never(contender)


def label(contender: Contender) -> str:
    """Return a short name for one run."""
    match contender:
        case Learned(name=name):
            return name + in_words(identify(contender)["settings"])
        case Teacher():
            return contender.name
        case _:
            return f"{contender.title}, lr {contender.lr:g}"


def in_words(settings: Mapping[str, Any]) -> str:
    """Return what follows a rule's name where it does not run as it is."""
    words = ""
    if "state" in settings:
        words += f", {settings['state']} state"
    if "structure_every" in settings:
        words += f", network every {settings['structure_every']} steps"
    if "whitening_rows" in settings:
        words += f", whitened by {settings['whitening_rows']} rows"
    return words


def identify(contender: Contender) -> dict[str, Any]:
    """Return what a row says of its optimizer, as JSON values."""
    values = asdict(contender)
    match contender:
        case Learned(name=name, sha256=sha256):
            values.pop("name")
            settings = {key: values.pop(key) for key in _PLAIN}
            return {
                "optimizer": name,
                "lr": None,
                "settings": {k: v for k, v in settings.items() if v != _PLAIN[k]},
                "rule_sha256": sha256,
                "rule": values,
            }
        case _:
            return {
                "optimizer": contender.name,
                "lr": values.pop("lr", None),
                "settings": values,
                "rule_sha256": None,
                "rule": None,
            }


def _rule_of(name: str, whitening_rows: int | None) -> str | AnyRule:
    """Return a rule by its name, or one that whitens by other groups."""
    if whitening_rows is None:
        return name
    known = load_rule(name)
    if isinstance(known, NeuronRule):
        rule = NeuronRule(replace(known.config, whitening_rows=whitening_rows))
    else:
        rule = Rule(with_group_rows(known.config, whitening_rows))
    rule.load_state_dict(known.state_dict())
    return rule
