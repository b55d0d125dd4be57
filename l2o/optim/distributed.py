"""Sharded parameters: whole tensors in, the local shard out."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether the tensor is spread over processes, as `fully_shard` leaves it."""
    # Importing it takes as long as half of torch; whoever has one has imported it.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole tensor, on every process; a plain tensor as it is.

    All processes of the tensor's mesh must call it together.
    """
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def spread_like(tensor: Tensor, param: Tensor) -> Tensor:
    """Return the whole tensor as a part of it a process, cut where `param` is cut.

    A tensor of the parameter's shape, perhaps with more axes in front (the momenta),
    is cut along the same axes. Any other, such as the step count, stays whole on each
    process, and so does a tensor along the axes of the mesh that cut it in an order of
    their own (fully_shard over tensor parallelism). Nothing is sent: every process has
    the whole tensor already.

    Args:
        tensor: equal on all processes.
        param: the parameter that it belongs to; if it is whole, so is the result.
    """
    if not is_sharded(param) or tensor.shape[tensor.ndim - param.ndim :] != param.shape:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate, Shard

    extra = tensor.ndim - param.ndim
    placements = [
        Shard(place.dim + extra) if isinstance(place, Shard) else Replicate()
        for place in param.placements
    ]
    mesh = param.device_mesh
    whole = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(placements=placements)


def write_back(
    param: Tensor, whole: Tensor, state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Write this process's part of a parameter that was gathered.

    Args:
        param: the parameter; written if it is sharded.
        whole: its value.
        state: its whole state.

    Returns:
        This process's part of the state.
    """
    if not is_sharded(param):
        return state
    param.copy_(spread_like(whole, param))
    return {key: spread_like(value, param) for key, value in state.items()}


@contextmanager
def unsharded(model: nn.Module) -> Iterator[dict[int, nn.Parameter]]:
    """Let a sharded model run on this process alone, as if it had never been sharded.

    Sharded parameters give way to whole ones of the same shape with other values, so
    that nothing is sent and no process waits for another; the hooks that torch's
    distributed packages put on its modules are gone meanwhile. What the model computes
    is of no use, how it computes it is.

    Args:
        model: any module; without sharded parameters nothing happens.

    Yields:
        `id` of each sharded parameter to the one that stands in for it.
    """
    generator = torch.Generator().manual_seed(0)
    stand_ins: dict[int, nn.Parameter] = {}
    kept: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    if any(is_sharded(param) for param in model.parameters()):
        for module in model.modules():
            hooks = (module._forward_pre_hooks, module._forward_hooks)
            kept += [(part, dict(part)) for part in (*hooks, module._parameters)]
            for part in hooks:
                for key in [key for key, hook in part.items() if _is_torchs(hook)]:
                    del part[key]
            for name, param in module._parameters.items():
                if param is not None and is_sharded(param):
                    if id(param) not in stand_ins:
                        stand_ins[id(param)] = _stand_in(param, generator)
                    module._parameters[name] = stand_ins[id(param)]
    try:
        yield stand_ins
    finally:
        for part, before in kept:
            part.clear()
            part.update(before)


def _stand_in(param: Tensor, generator: torch.Generator) -> nn.Parameter:
    values = 0.02 * torch.randn(param.shape, generator=generator, device="cpu")
    return nn.Parameter(
        values.to(param.device, param.dtype), requires_grad=param.requires_grad
    )


def _is_torchs(hook: Callable[..., object]) -> bool:
    """Whether a hook shards, gathers or sends."""
    return getattr(hook, "__module__", "").startswith("torch.distributed.")
