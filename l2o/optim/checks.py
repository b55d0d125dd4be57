"""Argument validation of `NeuralGraphOpt`, and its warnings about settings."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from l2o.rule.checkpoint import load_rule
from l2o.rule.rule import AbstractRule, plain_averages
from l2o.rule.state import ADAM_DECAY, Averages

BETAS = (ADAM_DECAY, Averages().second_moment_decay)
"""Adam's decays. They stand in the groups because schedulers that cycle a momentum look
for them there; a rule knows no others."""


def listed_params(params: Iterable[Any]) -> list[Any]:
    """Return the argument `params` as a list.

    Raises:
        TypeError: if it is a tensor or a set.
        ValueError: if it is empty.
    """
    if isinstance(params, dict):
        return [params]
    if isinstance(params, Tensor | set | frozenset):
        raise TypeError(
            "NeuralGraphOpt's params argument given to the optimizer should be an "
            f"iterable of Tensors or dicts, in order; got {type(params).__name__}. "
            "Pass model.parameters() or a list."
        )
    found = list(params)
    if not found:
        raise ValueError(
            "NeuralGraphOpt needs at least one parameter; got an empty list. "
            "Did you pass a generator that was already used, or a model without "
            "parameters?"
        )
    return found


def check_group(group: dict[str, Any]) -> None:
    """Raise ValueError or TypeError if a group's setting or parameter is invalid."""
    check_settings(lr=group["lr"], weight_decay=group["weight_decay"])
    if tuple(group["betas"]) != BETAS:
        raise ValueError(
            f"NeuralGraphOpt has fixed decays, its rule's; got betas={group['betas']}. "
            "Leave betas out."
        )
    names = group.get("param_names", range(len(group["params"])))
    for name, param in zip(names, group["params"], strict=True):
        if is_lazy(param):
            raise ValueError(
                "NeuralGraphOpt needs parameters with a shape; got a lazy one, "
                f"{name!r}. Run the model once before you build the optimizer."
            )
        if not param.is_floating_point():
            raise TypeError(
                "NeuralGraphOpt needs real floating-point parameters; got dtype "
                f"{param.dtype} for parameter {name!r}. Leave it out, or convert "
                "it (torch.view_as_real for complex ones)."
            )


def check_settings(**values: float | int | Tensor) -> None:
    """Raise ValueError unless every value is one finite number, zero or above."""
    for name, value in values.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(
                f"NeuralGraphOpt: Tensor {name} must be 1-element; got shape "
                f"{tuple(value.shape)}. Use a group for each setting."
            )
        if not 0 <= value < math.inf:
            raise ValueError(
                f"NeuralGraphOpt {name} must be finite, and zero or above; got "
                f"{name}={value}. "
                + ("1.0 is as meta-trained." if name == "lr" else "0.0 means none.")
            )


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Raise unless the parameter lies on the rule's device."""
    if tensor.device != device:
        raise ValueError(
            f"NeuralGraphOpt needs all parameters on {device}, where its rule lies; "
            f"got {name!r} on {tensor.device}. Move the model before you build the "
            "optimizer, and use one optimizer per device."
        )


def check_rule_device(rule: AbstractRule, device: torch.device) -> None:
    """Raise unless the rule's weights lie on the parameters' device."""
    theta = next(rule.parameters(), None)
    if theta is not None and theta.device != device:
        raise ValueError(
            f"NeuralGraphOpt needs the rule on the parameters' device {device}; got a "
            f"rule on {theta.device}. Call rule.to({str(device)!r}) first."
        )


def check_layout(name: str, layout: torch.layout) -> None:
    """Raise TypeError if a gradient is sparse."""
    if layout != torch.strided:
        raise TypeError(
            "NeuralGraphOpt needs dense gradients; got one of layout "
            f"{layout} for {name!r}. Build the embedding with sparse=False."
        )


def found_rule(rule: str | Path | AbstractRule) -> AbstractRule:
    """Return the rule of this name or path, or the rule itself.

    Raises:
        TypeError: if it is none of these.
        FileNotFoundError: if there is no such rule or file.
    """
    if isinstance(rule, str | Path):
        return load_rule(rule)
    if not isinstance(rule, AbstractRule):
        raise TypeError(
            "NeuralGraphOpt needs a rule by name, by path or as an object; got "
            f"{rule!r}. Pass for example rule='ff' or rule=Rule()."
        )
    return rule


def check_state_dtype(dtype: torch.dtype | None, rule: AbstractRule) -> None:
    """Raise unless the rule's state can be kept in this type."""
    if dtype not in (None, torch.bfloat16):
        raise ValueError(
            "NeuralGraphOpt keeps its state in torch.bfloat16, or with "
            f"state_dtype=None in float32 or wider; got state_dtype={dtype}. Choose "
            "one of the two."
        )
    if dtype is not None and plain_averages(rule) is None:
        raise ValueError(
            "NeuralGraphOpt needs a rule whose state is its averages to narrow it; got "
            f"a {type(rule).__name__}, which keeps a state of its own. Leave "
            "state_dtype out, and let init_state choose the type."
        )
