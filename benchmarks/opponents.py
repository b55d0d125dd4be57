"""Hand-designed optimizers, with the schedules that their users give them.

To add an opponent, write its builder and add an entry to `OPPONENTS`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from l2o.schedules import cosine_factor

Grid: TypeAlias = tuple[float, ...]
"""Learning rates in rising order."""

_LIKE_ADAM: Grid = (1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 4e-2)


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """A hand-designed optimizer, all but its learning rate."""

    title: str
    """Name in tables and pictures."""
    build: Callable[..., Optimizer]
    """Builds it as `build(model, lr, steps, **settings)`, its schedule included;
    `steps` is the length of the run."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Further arguments of `build`, as its users set them."""
    lrs: Grid = _LIKE_ADAM
    """Learning rates that it is tuned over by default."""


def build_opponent(name: str, lr: float, model: nn.Module, steps: int) -> Optimizer:
    """Build the optimizer of one network, its schedule included.

    Args:
        name: a key of `OPPONENTS`.
        lr: learning rate.
        model: the network.
        steps: length of the run, which schedules end with.

    Raises:
        ValueError: if the name is unknown, or unless 0 < lr < infinity.
        ModuleNotFoundError: if the opponent needs a package that is not installed.
    """
    opponent = find_opponent(name)
    if not 0 < lr < math.inf:
        raise ValueError(
            f"build_opponent needs a finite learning rate above zero; got lr={lr} for "
            f"{name}. Try {opponent.lrs[len(opponent.lrs) // 2]:g}."
        )
    return opponent.build(model, lr, steps, **opponent.settings)


def find_opponent(name: str) -> Opponent:
    """Return an opponent by its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in OPPONENTS:
        raise ValueError(
            f"find_opponent needs one of {', '.join(OPPONENTS)}; got {name!r}. Check "
            "the spelling, or add it to benchmarks/opponents.py."
        )
    return OPPONENTS[name]


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
    `torch.optim.Muon` takes matrices only, so a kernel `[O, I, H, W]` is passed to it
    as the matrix `[O, I * H * W]`, in place. Muon's updates are scaled to the size of
    AdamW's, so that one learning rate serves both.

    Args:
        model: the network.
        lr: learning rate of both parts.
        weight_decay: decoupled weight decay of both parts, per step and unit of `lr`.
        momentum: share of Muon's momentum that a step keeps.

    Reference: Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/; the scale of the updates
        is that of Liu et al., 2025, "Muon is Scalable for LLM Training",
        https://arxiv.org/abs/2502.16982.
    """

    def __init__(
        self, model: nn.Module, lr: float, *, weight_decay: float, momentum: float
    ) -> None:
        layers = [
            layer
            for layer in model.modules()
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
        ]
        weights = [layer.weight for layer in layers[:-1]]
        is_hidden = {id(weight) for weight in weights}
        others = [param for param in model.parameters() if id(param) not in is_hidden]
        super().__init__(model.parameters(), {"lr": lr})
        self._views: list[tuple[Tensor, Tensor]] = [
            (weight, weight.detach().view(len(weight), -1)) for weight in weights
        ]
        self._parts: list[Optimizer] = [
            torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay)
        ]
        if weights:
            muon = torch.optim.Muon(
                [view for _, view in self._views],
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
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


def _adam(model: nn.Module, lr: float, steps: int) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr)


def _adamw(
    model: nn.Module, lr: float, steps: int, *, weight_decay: float, warmup: float
) -> Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    return _scheduled(optimizer, cosine(steps, warmup))


def _sgd(
    model: nn.Module,
    lr: float,
    steps: int,
    *,
    momentum: float,
    weight_decay: float,
    warmup: float,
) -> Optimizer:
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=True,
    )
    return _scheduled(optimizer, cosine(steps, warmup))


def _muon(
    model: nn.Module, lr: float, steps: int, *, weight_decay: float, momentum: float
) -> Optimizer:
    optimizer = MuonAndAdamW(model, lr, weight_decay=weight_decay, momentum=momentum)
    return _scheduled(optimizer, linear(steps))


def _schedule_free(
    model: nn.Module, lr: float, steps: int, *, weight_decay: float, warmup: float
) -> Optimizer:
    from schedulefree import AdamWScheduleFree  # extra [benchmarks]

    return AdamWScheduleFree(
        model.parameters(),
        lr=lr,
        weight_decay=weight_decay,
        warmup_steps=round(warmup * steps),
    )


def _scheduled(optimizer: Optimizer, factor: Callable[[int], float]) -> Optimizer:
    """Multiply the learning rate by a factor that follows the optimizer's steps."""
    schedule = LambdaLR(optimizer, factor)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


OPPONENTS: dict[str, Opponent] = {
    "adam": Opponent(title="Adam", build=_adam),
    "adamw-cosine": Opponent(
        title="AdamW, cosine",
        build=_adamw,
        settings={"weight_decay": 0.01, "warmup": 0.05},
    ),
    "muon": Opponent(
        title="Muon + AdamW, linear decay",
        build=_muon,
        settings={"weight_decay": 0.01, "momentum": 0.95},
    ),
    "schedule-free": Opponent(
        title="schedule-free AdamW",
        build=_schedule_free,
        settings={"weight_decay": 0.0, "warmup": 0.05},
        lrs=(3e-3, 6e-3, 1e-2, 2e-2, 4e-2, 8e-2),
    ),
    "sgd-cosine": Opponent(
        title="SGD + Nesterov, cosine",
        build=_sgd,
        settings={"momentum": 0.9, "weight_decay": 5e-4, "warmup": 0.05},
        lrs=(1e-2, 3e-2, 1e-1, 2e-1, 4e-1, 8e-1),
    ),
}
"""Every opponent by its name. Warm-up is linear, over a share of the steps; a cosine
then falls to zero at the last step. Weight decay is decoupled and per unit of learning
rate, but for SGD, where it is an L2 penalty. Schedule-free AdamW is evaluated at its
averaged weights."""
