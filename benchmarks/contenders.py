"""The optimizers under comparison, by name and in full."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from l2o import NeuralGraphOpt, load_rule, read_provenance
from l2o.optim.checkpoint import rule_path

ADAM_LR = 1e-2
"""Adam's learning rate with the best validation accuracy in the fashion benchmark."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One optimizer: Adam, a rule as it was meta-trained, or the rules' teacher."""

    name: str
    """`adam`, `teacher`, or the rule as the user named it."""
    lr: float | None = None
    """Adam's learning rate; None for the others."""
    rule: dict[str, Any] | None = None
    """What identifies the rule: `sha256` of its file, kind of network, commit that
    made it; None for Adam and for the teacher."""

    @property
    def label(self) -> str:
        """A short name for tables and curves."""
        return self.name if self.lr is None else f"Adam, lr {self.lr:g}"

    def build(self, model: nn.Module) -> Optimizer:
        """Build the optimizer of one network."""
        if self.lr is not None:
            return torch.optim.Adam(model.parameters(), lr=self.lr)
        if self.rule is None:
            from meta_train.teacher import Teacher  # needs the extra [train]

            return NeuralGraphOpt(model.parameters(), rule=Teacher())
        return NeuralGraphOpt(model.parameters(), rule=self.name)


def adam(lr: float) -> Contender:
    """Return Adam at a learning rate.

    Raises:
        ValueError: unless the learning rate is above zero and finite.
    """
    if not 0 < lr < math.inf:
        raise ValueError(
            f"adam needs a finite learning rate above zero; got lr={lr}. Try 0.01."
        )
    return Contender(name="adam", lr=lr)


def teacher() -> Contender:
    """Return the hand-designed optimizer that the shipped rules imitated."""
    return Contender(name="teacher")


def learned(name_or_path: str) -> Contender:
    """Return a shipped rule by its name, or a rule from a file.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if the file holds no rule.
    """
    kind = load_rule(name_or_path).config.net.kind
    rule = {
        "sha256": hashlib.sha256(rule_path(name_or_path).read_bytes()).hexdigest(),
        "kind": kind,
        "commit": read_provenance(name_or_path).get("commit", "unknown"),
    }
    return Contender(name=name_or_path, rule=rule)
