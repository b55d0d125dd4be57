"""NeuralGraphOpt as torch's own tests describe an optimizer."""

import contextlib
import importlib
import warnings
from unittest import mock

import torch

from l2o import NeuralGraphOpt

SETTINGS = {
    "default": {},
    "another rate": {"lr": 0.5},
    "decay": {"weight_decay": 0.1},
    "ascent": {"maximize": True},
    "ascent with decay": {"maximize": True, "weight_decay": 0.1},
    "the feed-forward rule": {"rule": "ff"},
    "without the net": {"safety": None},
}


def import_machinery():
    """Import torch's test machinery, and keep what it does to the process out.

    It forbids changing backend flags, and warns that hypothesis is missing.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.backends, "disable_global_flags"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        return importlib.import_module("torch.testing._internal.common_optimizers")


def build_info():
    """Return the `OptimizerInfo` of `NeuralGraphOpt`.

    What it does not declare, torch's suite does not test: `foreach`, `fused`,
    `differentiable` and `capturable` are ways to compute the formula of another
    optimizer; sparse gradients and complex parameters are refused by name; one
    optimizer serves one device.
    """
    machinery = import_machinery()

    def inputs(device, dtype=None):
        settings = SETTINGS | {"tensor rate": {"lr": torch.tensor(0.5)}}
        return [
            machinery.OptimizerInput(params=None, kwargs=dict(kwargs), desc=name)
            for name, kwargs in settings.items()
        ]

    return machinery.OptimizerInfo(
        NeuralGraphOpt,
        optim_inputs_func=inputs,
        optim_error_inputs_func=machinery.get_error_inputs_for_all_optims,
        supported_impls=(),
        not_og_supported_flags=("maximize",),
        supports_complex=False,
        supports_multiple_devices=False,
    )
