"""Sums and products that write in place where no gradient is recorded.

Without autograd a step is bound by memory: what is written over stays in the cache.
With autograd nothing may be overwritten, and the same functions return new tensors.
"""

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F

from .config import Activation


class Pointwise(nn.Module):
    """A pointwise function, in the place of its argument if it can be.

    Args:
        name: which.
    """

    def __init__(self, name: Activation) -> None:
        super().__init__()
        self.name: Activation = name

    def forward(self, values: Tensor) -> Tensor:
        """Return the function of `values`, a tensor that nobody else needs."""
        in_place = not torch.is_grad_enabled()
        if self.name == "relu":
            return F.relu(values, inplace=in_place)
        return F.silu(values, inplace=in_place)


def add(base: Tensor, values: Tensor) -> Tensor:
    """Return `base + values`, in the place of `base` if it can be.

    Args:
        base: a tensor that nobody else needs.
        values: what broadcasts to its shape.
    """
    return base + values if torch.is_grad_enabled() else base.add_(values)


def add_product(base: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return `base + left @ right`, in the place of `base` if it can be.

    Args:
        base: a matrix that nobody else needs.
        left: a matrix.
        right: a matrix.
    """
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or any(map(is_batchedtensor, (base, left, right)))  # vmap knows no addmm_
    ):
        return torch.addmm(base, left, right)
    return base.addmm_(left, right)


def squared(values: Tensor) -> Tensor:
    """Return the squares of a tensor that nobody else needs, in its place if it can."""
    return values.square() if torch.is_grad_enabled() else values.mul_(values)


def clamped(values: Tensor, limit: float) -> Tensor:
    """Return a tensor that nobody else needs between `-limit` and `limit`."""
    return F.hardtanh(values, -limit, limit, inplace=not torch.is_grad_enabled())
