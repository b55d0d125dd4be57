"""The per-parameter network of PyLO and learned_optimization, as a reference.

Written from the published description in plain PyTorch, tensor by tensor, without fused
kernels: what the graph's cost is compared with, not a way to train.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

_MOMENTA = (0.9, 0.99, 0.999)
_SECOND = 0.999
_TIMES = (1e0, 3e0, 1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5)
_CHANNELS = 28
_EXPONENT = 1e-3


class SmallFC(Optimizer):
    """Adafactor-like features and a perceptron of 2,402 weights for every entry.

    Features of an entry: gradient, weight, three momenta, second moment, momenta over
    its root and that root's inverse, the gradient over three factored second moments,
    their rows and columns with inverse roots, and the momenta over them; each over its
    root mean square in the tensor. Then eleven clocks. The perceptron is untrained.

    Args:
        params: what to optimise.
        lr: factor of the update.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> optimizer = SmallFC(model.parameters())
        >>> sum(weight.numel() for weight in optimizer.network.parameters())
        2402

    Reference:
        Metz et al., 2022, "Practical tradeoffs between memory, compute, and
        performance in learned optimizers", https://arxiv.org/abs/2203.11860.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})
        like = self.param_groups[0]["params"][0]
        self.network = nn.Sequential(
            nn.Linear(_CHANNELS + len(_TIMES), 32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 2),
        ).to(like.device)

    @override
    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride] - torch overloads it
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Update the parameters in place from their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.sub_(group["lr"] * self._update(param, param.grad))
        return loss

    def _update(self, param: Tensor, grad: Tensor) -> Tensor:
        state = self.state[param]
        if not state:
            state.update(_first_state(param))
        features = _features(param, grad, state)
        features = features / (features.square().mean(0) + 1e-5).sqrt()
        times = torch.tensor(_TIMES, device=param.device)
        clock = torch.tanh(state["step"] / times - 1)
        state["step"] += 1
        inputs = torch.cat([features, clock.expand(len(features), -1)], dim=1)
        sign, magnitude = self.network(inputs).unbind(-1)
        return (sign * torch.exp(magnitude * _EXPONENT)).view_as(param)


def _first_state(param: Tensor) -> dict[str, Any]:
    def zeros(mean_over: int | None) -> Tensor:
        sizes = enumerate(param.shape)
        shape = [1 if axis == mean_over else size for axis, size in sizes]
        return param.new_zeros(len(_MOMENTA), *shape)

    state = {
        "step": param.new_zeros(()),
        "momenta": zeros(None),
        "second": torch.zeros_like(param),
    }
    if param.ndim < 2:
        return {**state, "row": zeros(None)}
    largest, other = _factored_axes(param)
    return {**state, "row": zeros(largest), "column": zeros(other)}


def _features(param: Tensor, grad: Tensor, state: dict[str, Any]) -> Tensor:
    """Advance the state; return `[entry, 28]`."""
    decays = torch.tensor(_MOMENTA, device=param.device)
    decays = decays.view(-1, *[1] * param.ndim)
    momenta = state["momenta"].lerp_(grad.expand_as(state["momenta"]), 1 - decays)
    second = state["second"].mul_(_SECOND).add_((1 - _SECOND) * grad.square())
    inverse = (second + 1e-6).rsqrt()
    square, row = (grad.square() + 1e-30)[None], state["row"]
    if param.ndim < 2:
        column = row.lerp_(square.expand_as(row), 1 - decays)
        factor = _inverse_root(row)
    else:
        largest, other = _factored_axes(param)
        column = state["column"]
        row.lerp_(square.mean(1 + largest, keepdim=True), 1 - decays)
        column.lerp_(square.mean(1 + other, keepdim=True), 1 - decays)
        share = row / (row.mean(1 + other, keepdim=True) + 1e-9)
        factor = _inverse_root(share) * _inverse_root(column)
    channels = [
        *(grad[None], param[None], momenta, second[None]),
        *(momenta * inverse, inverse[None], grad * factor),
        *(row, column, (row + 1e-8).rsqrt(), (column + 1e-8).rsqrt()),
        momenta * factor,
    ]
    wide = [
        item.expand(len(item), *param.shape).reshape(len(item), -1) for item in channels
    ]
    return torch.cat(wide).T


def _inverse_root(values: Tensor) -> Tensor:
    return values.clamp_min(1e-9).rsqrt()


def _factored_axes(param: Tensor) -> tuple[int, int]:
    """Return the longest axis and the second longest; of equals, the last first."""
    order = sorted(range(param.ndim), key=lambda axis: (param.shape[axis], axis))
    return order[-1], order[-2]
