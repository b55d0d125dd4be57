"""Sharded parameters: whole tensors in, the local shard out."""

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether the tensor is spread over processes, as `fully_shard` leaves it."""
    # Importing it takes as long as half of torch; who has one has imported it.
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
