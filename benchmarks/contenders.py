"""The optimizers under comparison: hand-designed ones, and rules as they are."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias, assert_never

import torch
from torch import nn
from torch.optim import Optimizer

from l2o import NeuralGraphOpt, load_rule, read_provenance
from l2o.optim.checkpoint import rule_path
from l2o.optim.config import NominalHeadConfig

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


Contender: TypeAlias = Baseline | Teacher | Learned


def learned(
    name_or_path: str,
    state: Literal["float32", "bfloat16"] = "float32",
    structure_every: int = 1,
) -> Learned:
    """Return a shipped rule by its name, or a rule from a file.

    Args:
        name_or_path: which.
        state: in what type its averages are kept.
        structure_every: how many steps its network's outputs serve.

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
                rule=name,
                state_dtype=torch.bfloat16 if state == "bfloat16" else None,
                structure_every=every,
            )
        case Teacher(matrix_rate=rate, unit=unit):
            from meta_train.estimator_config import ImitationConfig  # extra [train]
            from meta_train.teacher import Teacher as TeacherRule

            rule = TeacherRule(
                ImitationConfig(matrix_rate=rate), head=NominalHeadConfig(unit=unit)
            )
            return NeuralGraphOpt(model.parameters(), rule=rule)
        case Adam() | AdamW() | SGD() | Muon() | ScheduleFree():
            return build_baseline(contender, model, steps)
        case _:
            assert_never(contender)


def label(contender: Contender) -> str:
    """Return a short name for one run."""
    match contender:
        case Learned(name=name, state=state, structure_every=every):
            if state != "float32":
                name = f"{name}, {state} state"
            return name if every == 1 else f"{name}, network every {every} steps"
        case Teacher():
            return contender.name
        case _:
            return f"{contender.title}, lr {contender.lr:g}"


def identify(contender: Contender) -> dict[str, Any]:
    """Return what a row says of its optimizer, as JSON values."""
    values = asdict(contender)
    match contender:
        case Learned(name=name, sha256=sha256):
            values.pop("name")
            state, every = values.pop("state"), values.pop("structure_every")
            settings = {} if state == "float32" else {"state": state}
            settings |= {} if every == 1 else {"structure_every": every}
            return {
                "optimizer": name,
                "lr": None,
                "settings": settings,
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
