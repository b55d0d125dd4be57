"""All about a model and its surroundings that a trace might change."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def everything_about(model: nn.Module, inputs: Sequence) -> dict[str, Any]:
    """Return copies and counts, in a form that compares."""
    modules = dict(model.named_modules())
    return {
        "tensors": {
            name: (tensor.detach().clone(), tensor.data_ptr())
            for name, tensor in model.state_dict(keep_vars=True).items()
        },
        "inputs": [copy.deepcopy(value) for value in inputs],
        "grads": [parameter.grad for parameter in model.parameters()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "training": {name: module.training for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "hooks": {
            (name, kind): len(hooks)
            for name, module in modules.items()
            for kind, hooks in vars(module).items()
            if kind.endswith("_hooks")
        },
        "settings": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.mkldnn.enabled,
            torch.get_num_threads(),
        ),
        "generator": torch.get_rng_state(),
    }
