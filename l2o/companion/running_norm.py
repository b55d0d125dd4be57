"""The norm of NG-GNN's node states: one mean and one deviation per layer, running."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

MOMENTUM = 0.1
"""Share of a batch in the running values."""
EPSILON = 1e-5
"""Added to the deviation."""


class RunningNorm(nn.Module):
    r"""Standardises node states by one running mean and deviation for all channels.

    .. math:: y = w \\odot (x - \\mu) / (\\sigma + 10^{-5}) + b

    In training each batch moves the running values by a tenth towards its own, without
    a gradient, after it was normalised by the earlier ones; in evaluation they are
    constants. So the answer for a network never depends on the others in its batch, and
    unlike with a norm per neuron the lengths of states stay different.

    Args:
        width: channels of a node state.

    Reference:
        The released code of Kofinas et al., 2024, takes mean and deviation of the batch
        itself, in evaluation too; these follow them.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self.waiting: list[Tensor] | None = None
        self.is_starting = False

    @override
    def forward(self, nodes: Tensor) -> Tensor:
        """Return the normalised states, `[neuron, width]`."""
        if self.is_starting:
            self._follow(_sums(nodes.detach()), momentum=1.0)
        scale = self.weight / (self.deviation + EPSILON)
        found = torch.addcmul(self.bias - self.mean * scale, nodes, scale)
        if self.training:
            self._observe(nodes.detach())
        return found

    def _observe(self, nodes: Tensor) -> None:
        """Take some states of a batch into account."""
        if self.waiting is None:
            self._follow(_sums(nodes))
        else:
            self.waiting.append(_sums(nodes))

    def begin(self) -> None:
        """Take what is observed from now on as one batch, until `end`."""
        self.waiting = []

    def end(self) -> None:
        """Let the running values follow what was observed since `begin`."""
        found, self.waiting = self.waiting, None
        if found:
            self._follow(torch.stack(found).sum(0))

    @torch.no_grad()
    def _follow(self, sums: Tensor, momentum: float = MOMENTUM) -> None:
        count, total, square = sums
        mean = total / count
        deviation = (square / count - mean.square()).clamp_min(0).sqrt()
        # New tensors: the gradient of this batch still needs the earlier values.
        self.mean = self.mean.lerp(mean.to(self.mean), momentum)
        self.deviation = self.deviation.lerp(deviation.to(self.deviation), momentum)


def _sums(nodes: Tensor) -> Tensor:
    """Return count, sum and sum of squares of all numbers, in double precision."""
    wide = nodes.double()
    count = wide.new_tensor(float(wide.numel()))
    return torch.stack([count, wide.sum(), wide.square().sum()])


@contextmanager
def one_batch(model: nn.Module) -> Iterator[None]:
    """Let the running norms of a model see all parts of a batch as one.

    Without it every call in training mode counts as a batch.

    Args:
        model: the network that is trained.

    Example:
        >>> model = nn.Sequential(RunningNorm(4))
        >>> with one_batch(model):
        ...     for part in torch.ones(6, 4).split(2):
        ...         _ = model(part)
        >>> round(float(model[0].mean), 6)
        0.1
    """
    norms = _norms(model)
    for norm in norms:
        norm.begin()
    try:
        yield
    finally:
        for norm in norms:
            norm.end()


@contextmanager
def starting(model: nn.Module) -> Iterator[None]:
    """Let each running norm take the values of the first call, layer after layer.

    Args:
        model: the network, in evaluation mode.
    """
    norms = _norms(model)
    for norm in norms:
        norm.is_starting = True
    try:
        yield
    finally:
        for norm in norms:
            norm.is_starting = False


def _norms(model: nn.Module) -> list[RunningNorm]:
    return [module for module in model.modules() if isinstance(module, RunningNorm)]
