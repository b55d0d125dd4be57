"""Hand-designed optimizers as strong opponents, with the schedules of their users.

Each config holds all that decides a run besides the network, so that a row can name it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, assert_never, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from l2o.schedules import cosine_factor


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam at a constant learning rate, as in the paper."""

    name: ClassVar = "adam"
    title: ClassVar = "Adam"
    lr: float
    """Learning rate."""

    def __post_init__(self) -> None:
        _check_lr(self)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW, a linear warm-up and a cosine to zero."""

    name: ClassVar = "adamw-cosine"
    title: ClassVar = "AdamW, cosine"
    lr: float
    """Highest learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay, per step and unit of learning rate."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""

    def __post_init__(self) -> None:
        _check_lr(self)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """SGD with Nesterov momentum, a linear warm-up and a cosine to zero."""

    name: ClassVar = "sgd-cosine"
    title: ClassVar = "SGD + Nesterov, cosine"
    lr: float
    """Highest learning rate."""
    momentum: float = 0.9
    """Share of the momentum that a step keeps."""
    weight_decay: float = 5e-4
    """L2 penalty: added to the gradient per unit of weight."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""

    def __post_init__(self) -> None:
        _check_lr(self)


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Muon for hidden matrices, AdamW for the rest, a linear decay to zero."""

    name: ClassVar = "muon"
    title: ClassVar = "Muon + AdamW, linear decay"
    lr: float
    """Learning rate of the first step, of both parts; Muon's updates are scaled to the
    size of AdamW's, so that one number serves both."""
    weight_decay: float = 0.01
    """Decoupled weight decay, per step and unit of learning rate, of both parts."""
    momentum: float = 0.95
    """Muon's momentum."""

    def __post_init__(self) -> None:
        _check_lr(self)


@dataclass(frozen=True, kw_only=True)
class ScheduleFree:
    """Schedule-free AdamW with a linear warm-up; its averaged weights are evaluated."""

    name: ClassVar = "schedule-free"
    title: ClassVar = "schedule-free AdamW"
    lr: float
    """Learning rate after the warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per step and unit of learning rate."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""

    def __post_init__(self) -> None:
        _check_lr(self)


Baseline: TypeAlias = Adam | AdamW | SGD | Muon | ScheduleFree
BaselineName: TypeAlias = Literal[
    "adam", "adamw-cosine", "sgd-cosine", "muon", "schedule-free"
]


def baseline(name: BaselineName, lr: float) -> Baseline:
    """Return a baseline at a learning rate, everything else as its users set it.

    Raises:
        ValueError: unless the learning rate is above zero and finite.
    """
    match name:
        case "adam":
            return Adam(lr=lr)
        case "adamw-cosine":
            return AdamW(lr=lr)
        case "sgd-cosine":
            return SGD(lr=lr)
        case "muon":
            return Muon(lr=lr)
        case "schedule-free":
            return ScheduleFree(lr=lr)
        case _:
            assert_never(name)


def build_baseline(config: Baseline, model: nn.Module, steps: int) -> Optimizer:
    """Build the optimizer of one network, its schedule included.

    Args:
        config: which.
        model: the network.
        steps: length of the run, which schedules end with.

    Raises:
        ModuleNotFoundError: if schedule-free AdamW is asked for and not installed.
    """
    params = list(model.parameters())
    match config:
        case Adam(lr=lr):
            return torch.optim.Adam(params, lr=lr)
        case AdamW(lr=lr, weight_decay=decay):
            optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=decay)
            return _scheduled(optimizer, cosine(steps, config.warmup))
        case SGD(lr=lr, momentum=momentum, weight_decay=decay):
            optimizer = torch.optim.SGD(
                params, lr=lr, momentum=momentum, weight_decay=decay, nesterov=True
            )
            return _scheduled(optimizer, cosine(steps, config.warmup))
        case Muon():
            return _scheduled(MuonAndAdamW(model, config), linear(steps))
        case ScheduleFree(lr=lr, weight_decay=decay):
            from schedulefree import AdamWScheduleFree

            warmup_steps = round(config.warmup * steps)
            return AdamWScheduleFree(
                params, lr=lr, weight_decay=decay, warmup_steps=warmup_steps
            )
        case _:
            assert_never(config)


def cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Return the factor of the learning rate by step, from 0: up, then down to zero.

    Args:
        steps: length of the run.
        warmup: share of it over which the factor rises linearly to one.
    """
    rising = max(1, round(warmup * steps))
    return lambda step: cosine_factor(step, steps, warmup_steps=rising)


def linear(steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate by step, from 0: one, down to zero.

    Args:
        steps: length of the run.
    """
    return lambda step: max(0.0, 1 - step / steps)


class MuonAndAdamW(Optimizer):
    """Muon for hidden matrices, AdamW for everything else, as one optimizer.

    Hidden matrices are the weights of all linear and convolutional layers but the last.
    `torch.optim.Muon` takes matrices only, so a kernel `[O, I, H, W]` is handed to it
    as the matrix `[O, I * H * W]`, in place.

    Args:
        model: the network.
        config: learning rate, weight decay and momentum.

    Reference: Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/; the scale of the updates
        is that of Liu et al., 2025, "Muon is Scalable for LLM Training",
        https://arxiv.org/abs/2502.16982.
    """

    def __init__(self, model: nn.Module, config: Muon) -> None:
        layers = [
            layer
            for layer in model.modules()
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
        ]
        weights = [layer.weight for layer in layers[:-1]]
        is_hidden = {id(weight) for weight in weights}
        others = [param for param in model.parameters() if id(param) not in is_hidden]
        super().__init__(model.parameters(), {"lr": config.lr})
        self._views: list[tuple[Tensor, Tensor]] = [
            (weight, weight.detach().view(len(weight), -1)) for weight in weights
        ]
        self._parts: list[Optimizer] = [
            torch.optim.AdamW(others, lr=config.lr, weight_decay=config.weight_decay)
        ]
        if weights:
            muon = torch.optim.Muon(
                [view for _, view in self._views],
                lr=config.lr,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append(muon)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @override
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters; return the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, view in self._views:
            grad = weight.grad
            view.grad = None if grad is None else grad.reshape(view.shape)
        for part in self._parts:
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()
        return loss


def _scheduled(optimizer: Optimizer, factor: Callable[[int], float]) -> Optimizer:
    """Let every step of the optimizer move its learning rate on."""
    schedule = LambdaLR(optimizer, factor)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def _check_lr(config: Baseline) -> None:
    if not 0 < config.lr < math.inf:
        raise ValueError(
            f"{type(config).__name__} needs a finite learning rate above zero; got "
            f"lr={config.lr}. Try 0.01."
        )
