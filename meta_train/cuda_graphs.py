"""Inner steps as CUDA graphs: recorded once, replayed without one launch per kernel."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from optimizees.devices import choose_device

Result = TypeVar("Result")


def captured(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return a pure function of tensors that is replayed as a CUDA graph.

    `torch.compile` captures it, once for each shape of its arguments. What it returns
    is copied: a graph writes the same memory at every replay. Nothing is recorded for
    autograd. On a CPU the function is only compiled.

    Args:
        function: from tensors, and containers of tensors, to such. Pieces that do not
            compile run as they are.
    """
    compiled = torch.compile(function, mode="reduce-overhead", dynamic=False)

    def replay(*args: object) -> Result:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            return tree_map(_copied, compiled(*args))

    return replay


def _copied(leaf: object) -> object:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def device_of_run(name: str, *, needs_gpu: bool) -> torch.device:
    """Return the device of a run.

    Raises:
        ValueError: if it is not there, or is no GPU although graphs need one.
    """
    device = choose_device(name)
    if needs_gpu and device.type != "cuda":
        raise ValueError(
            f"MetaTrainConfig cuda_graphs needs a CUDA device; got device {name!r}. "
            "Leave cuda_graphs out, or run where torch sees a GPU."
        )
    return device
