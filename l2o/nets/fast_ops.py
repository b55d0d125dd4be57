"""Sums and products that are faster where no gradient is recorded.

Without autograd a step is bound by memory, and overwritten tensors stay in the cache.
With autograd nothing may be overwritten, and the same functions return new tensors.

Without autograd products of narrow matrices go to oneDNN. PyTorch's own go to MKL,
which is slower on these, and does not use AVX-512 on processors of other makers than
Intel. On Intel's, products of matrices that are not narrow are MKL's.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor, peek_interpreter_stack
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .config import Activation

_LEAST = 2**20
"""Fewest multiplications for which oneDNN is worth the overhead of its call."""

_LARGE = 2**22
"""Fewest bytes for which NumPy asks the system for large pages."""
_LINE = 64
"""Bytes of a cache line."""

_HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
_IS_INTEL = "Intel" in str(torch.cpu.get_capabilities().get("cpu_name"))


class Pointwise(nn.Module):
    """A pointwise function, in place where that is allowed.

    Args:
        name: which.
    """

    def __init__(self, name: Activation) -> None:
        super().__init__()
        self.name: Activation = name

    def forward(self, values: Tensor) -> Tensor:
        """Return the function of `values`, a tensor we may overwrite."""
        in_place = not torch.is_grad_enabled()
        if self.name == "relu":
            return F.relu(values, inplace=in_place)
        return F.silu(values, inplace=in_place)


def add(base: Tensor, values: Tensor | float) -> Tensor:
    """Return `base + values`, in place where that is allowed.

    Args:
        base: a tensor we may overwrite.
        values: what broadcasts to its shape.
    """
    return base + values if torch.is_grad_enabled() else base.add_(values)


def add_product(base: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return `base + left @ right`, in place where that is allowed.

    Args:
        base: a matrix we may overwrite.
        left: a matrix.
        right: a matrix.
    """
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or any(map(is_batchedtensor, (base, left, right)))  # vmap has no addmm_
    ):
        return torch.addmm(base, left, right)
    return base.addmm_(left, right)


def multiplied(base: Tensor, factor: Tensor | float) -> Tensor:
    """Return `base * factor`, in place where that is allowed.

    Args:
        base: a tensor we may overwrite.
        factor: what broadcasts to its shape.
    """
    return base * factor if torch.is_grad_enabled() else base.mul_(factor)


def squared(values: Tensor) -> Tensor:
    """Return the squares of a tensor we may overwrite, in place where allowed."""
    return values.square() if torch.is_grad_enabled() else values.mul_(values)


def sum_of_squares(values: Tensor) -> Tensor:
    """Return the sum of the squares along the last axis."""
    if torch.is_grad_enabled():  # the norm has no second derivative at zero
        return values.square().sum(-1)
    return torch.linalg.vector_norm(values, dim=-1).square()


def clamped(values: Tensor, limit: float) -> Tensor:
    """Return a tensor we may overwrite, clamped to `-limit` and `limit`."""
    return F.hardtanh(values, -limit, limit, inplace=not torch.is_grad_enabled())


def joined(
    *parts: Tensor | tuple[Callable[..., Tensor], Tensor, *tuple[Any, ...]],
) -> Tensor:
    """Return parts concatenated along the first axis.

    A part that is computed here is written straight into the result where that is
    allowed. In a step the copy would take as much time as the computation.

    Args:
        parts: tensors; or an elementwise function that takes `out`, and its arguments,
            the first of them a tensor of the shape of the result.
    """
    if not in_plain_eager():
        return torch.cat(
            [part if isinstance(part, Tensor) else part[0](*part[1:]) for part in parts]
        )
    tensors = [part if isinstance(part, Tensor) else part[1] for part in parts]
    sizes = [len(tensor) for tensor in tensors]
    whole = tensors[0].new_empty(sum(sizes), *tensors[0].shape[1:])
    for part, place in zip(parts, whole.split(sizes), strict=True):
        if isinstance(part, Tensor):
            place.copy_(part)
        else:
            part[0](*part[1:], out=place)
    return whole


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right`, of matrices that are not narrow.

    Args:
        left: `[*batch, m, k]`.
        right: `[*batch, k, n]`.
    """
    if not _IS_INTEL and prod(left.shape[:-2]) == prod(right.shape[:-2]) == 1:
        shape = *left.shape[:-1], right.shape[-1]
        left, right = left.reshape(left.shape[-2:]), right.reshape(right.shape[-2:])
        return linear(left, right.mT).view(shape)
    return left @ right


def product_and(
    base: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float = 1.0
) -> Tensor:
    """Return `beta * base + alpha * left @ right`, of matrices that are not narrow.

    Args:
        base: `[batch, m, n]`.
        left: `[batch, m, k]`.
        right: `[batch, k, n]`.
        beta: factor of the base.
        alpha: factor of the product.
    """
    if _IS_INTEL or not _goes_to_onednn(left, right.mT):
        return torch.baddbmm(base, left, right, beta=beta, alpha=alpha)
    return product(left, right).mul_(alpha).add_(base, alpha=beta)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `values @ weight.T + bias`.

    Args:
        values: `[*rows, k]`.
        weight: `[n, k]`.
        bias: `[n]`, or None for none.
    """
    if _goes_to_onednn(values, weight):
        return _by_onednn(values, weight, bias)
    return F.linear(values, weight, bias)


def linear_by_channel(weight: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Return what `linear` does where channels come first.

    Args:
        weight: `[n, k]`.
        values: `[k, entry]`.
        bias: `[n]`.

    Returns:
        `[n, entry]`.
    """
    if _goes_to_onednn(weight, values.T):
        return _by_onednn(weight, values.T).add_(bias[:, None])
    return torch.addmm(bias[:, None], weight, values)


def new_empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Return an uninitialised tensor; a large one on the CPU in large pages.

    In pages of 4 kB, a step that starts with fresh memory spends a twentieth of its
    time on page faults.

    Args:
        like: for device and dtype.
        shape: of the result.
    """
    size = prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < _LARGE or not in_plain_eager():
        return like.new_empty(shape)
    room = torch.from_numpy(numpy.empty(size + _LINE, numpy.uint8))
    start = -room.data_ptr() % _LINE
    return room[start : start + size].view(like.dtype).view(shape)


def in_plain_eager() -> bool:
    """True without autograd, compiler and functorch transform.

    Then tensors may be overwritten and passed to operations without derivatives.
    """
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and peek_interpreter_stack() is None
    )


def _by_onednn(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `linear` does, by oneDNN."""
    if not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()  # oneDNN is a thousand times slower on others
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")


def _goes_to_onednn(values: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is faster at `values @ weight.T`, and allowed.

    Its operation has no derivative and no rule for `vmap`, and dispatch modes (such as
    a counter of operations) do not know it; they get PyTorch's own.
    """
    return (
        _HAS_ONEDNN
        and values.dtype == weight.dtype == torch.float32
        and values.device.type == "cpu"
        and values.numel() * weight.shape[0] >= _LEAST
        and in_plain_eager()
        and not is_in_torch_dispatch_mode()
    )
