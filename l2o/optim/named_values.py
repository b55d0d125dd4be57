"""Groups of an optimizer to whole tensors by name, as the pure step takes them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.rule.state import State
from l2o.rule.step import Hyper

from .averaged_weights import KEYS
from .checks import check_device, check_layout
from .distributed import gathered, is_sharded


class StepInputs(NamedTuple):
    """What a step reads of the parameters that have a gradient, by name."""

    grads: dict[str, Tensor]
    """Whole gradients, negated where a group maximizes."""
    hyper: dict[str, Hyper]
    state: State
    """Whole states without averaged weights; none before a parameter's first step."""


def gather_inputs(
    groups: Sequence[dict[str, Any]],
    names: Mapping[Tensor, str],
    states: Mapping[Tensor, Mapping[str, Any]],
    device: torch.device,
    *,
    lr_as_tensor: bool,
) -> StepInputs:
    """Collect gradients, settings and states of the parameters that have a gradient.

    Args:
        groups: the optimizer's.
        names: of the parameters that the rule reads; others are left out.
        states: of the parameters.
        device: where all of them must lie.
        lr_as_tensor: whether `lr` becomes a tensor, so that a compiled step is not
            compiled again when it changes.

    Raises:
        TypeError: if a gradient is sparse.
        ValueError: if a parameter lies elsewhere.
    """
    found = StepInputs({}, {}, {})
    for group in groups:
        lr = group["lr"]
        if isinstance(lr, Tensor):
            lr = lr.reshape(())
        elif lr_as_tensor:
            lr = torch.full((), lr, device=device)
        item = Hyper(lr=lr, weight_decay=group["weight_decay"])
        for param in group["params"]:
            name = names.get(param)
            if param.grad is None or name is None:
                continue
            check_layout(name, param.grad.layout)
            check_device(name, param, device)
            grad = gathered(param.grad) if is_sharded(param) else param.grad
            found.grads[name] = -grad if group["maximize"] else grad
            found.hyper[name] = item
            if states.get(param):
                found.state[name] = {
                    key: gathered(value)
                    for key, value in states[param].items()
                    if key not in KEYS
                }
    return found
