"""Optimizer states from checkpoints: whether they fit, and at which width."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from l2o.rule.checkpoint import rule_hash
from l2o.rule.rule import AbstractRule
from l2o.rule.state import ParameterState
from l2o.rule.step import complete_state

from .averaged_weights import AVERAGE, average_template
from .distributed import gathered, is_sharded, spread_like
from .names import parameters_of

_FOREIGN_SETTINGS = {
    *("eps", "amsgrad", "foreach", "fused", "capturable", "differentiable"),
    *("momentum", "dampening", "nesterov", "alpha", "centered", "rho", "lr_decay"),
}
"""Settings of torch's optimizers that a group of `NeuralGraphOpt` does not have."""


@contextmanager
def wide_loading(
    optimizer: Optimizer, rule: AbstractRule, dtype: torch.dtype | None
) -> Iterator[None]:
    """Let `load_state_dict` refuse what does not fit, and keep what does as it was.

    By itself, torch casts averages to the parameters' dtype. Our hook is the last one
    before it loads and the first one after, so that the user's hooks see the result.
    Whatever is raised, the optimizer stays as it was.

    Args:
        optimizer: which is to load within this context.
        rule: its rule.
        dtype: of the averages; None means the parameters', in float32 or wider.
    """
    restored: list[tuple[Tensor, ParameterState]] = []

    def check(_: Optimizer, found: dict[str, Any]) -> None:
        check_form(found)
        params = parameters_of(optimizer.param_groups)
        check_saved_state(found, rule, rule_hash(rule), params)
        for _, param, item in paired(found, params):
            restored.append((param, restored_state(item, rule, param, dtype)))

    def widen(_: Optimizer) -> None:
        for param, item in restored:
            optimizer.state[param] = item

    before = optimizer.state, optimizer.param_groups
    hooks = (
        optimizer.register_load_state_dict_pre_hook(check),
        optimizer.register_load_state_dict_post_hook(widen, prepend=True),
    )
    try:
        yield
    except BaseException:
        optimizer.state, optimizer.param_groups = before
        raise
    finally:
        for hook in hooks:
            hook.remove()


def check_saved_state(
    saved: Mapping[str, Any], rule: AbstractRule, hash_: int, params: Sequence[Tensor]
) -> None:
    """Raise ValueError unless `saved` can go on with this rule and these parameters.

    Args:
        saved: a state dictionary.
        rule: the rule that is to go on.
        hash_: its `rule_hash`. A group of `saved` without one fits every rule.
        params: the optimizer's parameters, in order.
    """
    for group in saved["param_groups"]:
        if group.get("rule_hash", hash_) != hash_:
            raise ValueError(
                "NeuralGraphOpt needs a state of its own rule; got rule_hash "
                f"{group['rule_hash']} instead of {hash_}. Build the optimizer with "
                "the rule of the checkpoint; to go on with another on purpose, delete "
                "rule_hash from the checkpoint's param_groups."
            )
    for key, param, item in paired(saved, params):
        expected = {
            name: value.shape for name, value in _template(rule, param, item).items()
        }
        found = {name: torch.Size(getattr(v, "shape", ())) for name, v in item.items()}
        if found != expected:
            raise ValueError(
                "NeuralGraphOpt needs a state that its rule saved, with "
                f"{_listed(expected)}; got {_listed(found)} for parameter {key}. Load "
                "the checkpoint of a run with this rule and model, or start without "
                "its optimizer state."
            )
        for name, value in item.items():
            if not _is_sound(name, value):
                raise ValueError(
                    "NeuralGraphOpt needs averages that are finite, and not below zero "
                    f"where they are of squares; got others in {name} of parameter "
                    f"{key}. Load an earlier checkpoint."
                )


def check_form(saved: object) -> None:
    """Raise ValueError unless a state dictionary has the form of `state_dict`.

    Args:
        saved: what is to be loaded.
    """
    problem = _form_problem(saved)
    if problem is not None:
        raise ValueError(
            f"NeuralGraphOpt needs a state dictionary that it saved; got {problem}. "
            "Load another checkpoint, or start without its optimizer state."
        )


def _form_problem(saved: object) -> str | None:
    """Say what is wrong with the form of a state dictionary; None if nothing is."""
    if not isinstance(saved, Mapping):
        return f"a {type(saved).__name__}"
    groups, states = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(states, Mapping):
        return "one without the list param_groups and the dictionary state"
    if not all(isinstance(group, Mapping) for group in groups):
        return "groups that are no dictionaries"
    for place, group in enumerate(groups):
        keys = group.get("params")
        if not isinstance(keys, list) or not all(
            isinstance(k, int | str) for k in keys
        ):
            return f"no list params in group {place}"
        if not all(isinstance(states.get(key, {}), Mapping) for key in keys):
            return f"states that are no dictionaries in group {place}"
        foreign = sorted(map(str, _FOREIGN_SETTINGS & group.keys()))
        if foreign and "rule_hash" not in group:
            return f"the settings {', '.join(foreign)} of another optimizer"
        for name in ("lr", "weight_decay"):
            if name in group and not _is_sound(name, group[name], least=0.0):
                return f"{name}={group[name]!r} in group {place}"
        if not isinstance(group.get("maximize", False), bool):
            return f"maximize={group['maximize']!r} in group {place}"
        betas = group.get("betas", (0.0, 0.0))
        if not isinstance(betas, list | tuple) or not (
            len(betas) == 2 and all(_is_sound("betas", beta) for beta in betas)
        ):
            return f"betas={betas!r} in group {place}"
    return None


def _is_sound(name: str, value: object, *, least: float = -math.inf) -> bool:
    """Whether a saved value is a number, or a dense tensor of numbers, and finite."""
    if name in ("step", "second_moment"):
        least = 0.0
    if isinstance(value, Tensor):
        if is_sharded(value):
            return True
        if value.layout != torch.strided or value.is_complex() or value.is_meta:
            return False
        return bool((value.isfinite() & (value >= least)).all())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max and value >= least


def restored_state(
    item: Mapping[str, Any],
    rule: AbstractRule,
    param: Tensor,
    dtype: torch.dtype | None,
) -> ParameterState:
    """Return a copy of one parameter's saved state, as wide as it is to be kept.

    Args:
        item: the saved state, whole or sharded; numbers may stand for 0-d tensors.
        rule: the rule that is to go on.
        param: the parameter, whole or sharded.
        dtype: of the averages; None means the parameter's, in float32 or wider.
    """
    restored = {}
    like_all = _template(rule, param, item, dtype)
    for name, like in like_all.items():
        value = torch.as_tensor(item[name])
        if is_sharded(value) and not is_sharded(param):
            value = gathered(value)
        value = value.to(device=param.device, dtype=like.dtype, copy=True)
        restored[name] = value if is_sharded(value) else spread_like(value, param)
    return restored


def paired(
    saved: Mapping[str, Any], params: Sequence[Tensor]
) -> list[tuple[Any, Tensor, Mapping[str, Any]]]:
    """Return key, parameter and saved state, where there is one.

    Nothing at all if they are not equally many, which torch itself refuses.
    """
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    if len(keys) != len(params):
        return []
    states = saved["state"]
    pairs = zip(keys, params, strict=True)
    return [(key, param, states[key]) for key, param in pairs if states.get(key)]


def _template(
    rule: AbstractRule,
    param: Tensor,
    item: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> ParameterState:
    """Return a state with the right shapes and widths, and no values.

    Args:
        rule: the rule that is to go on.
        param: the parameter.
        item: the saved state, which may hold an average of the weights.
        dtype: of the averages of gradients; None means the parameter's.
    """
    empty = torch.empty(param.shape, dtype=param.dtype, device="meta")
    template = complete_state(rule, {"": empty}, {}, dtype)[""]
    if AVERAGE in item:
        template.update(average_template(empty))
    return template


def _listed(shapes: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
