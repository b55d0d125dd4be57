"""How hand-designed optimizers are built, and the schedules that users give them.

Each builder takes the network, a learning rate, the run's schedule and settings by
name. It returns the optimizer at a constant rate; `scheduled` adds the schedule.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from l2o.schedules import cosine_factor

from .muon import MuonAndAdamW, hidden_weights

Decay: TypeAlias = Literal["none", "linear", "cosine"]
"""How a learning rate falls towards the last step; "none" keeps it."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a learning rate changes over a run."""

    steps: int
    """Length of the run."""
    decay: Decay = "none"
    """How the rate falls to zero at the last step."""
    warmup: float = 0.0
    """Share of the run over which it rises first, where `decay` is a cosine."""


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


def adam(model: nn.Module, lr: float, schedule: Schedule) -> Optimizer:
    """Build PyTorch's Adam at a constant rate."""
    return torch.optim.Adam(model.parameters(), lr=lr)


def adamw(
    model: nn.Module,
    lr: float,
    schedule: Schedule,
    *,
    weight_decay: float,
) -> Optimizer:
    """Build PyTorch's AdamW."""
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)


def sgd(
    model: nn.Module,
    lr: float,
    schedule: Schedule,
    *,
    momentum: float,
    weight_decay: float,
) -> Optimizer:
    """Build PyTorch's SGD with Nesterov's momentum."""
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=True,
    )


def muon(
    model: nn.Module,
    lr: float,
    schedule: Schedule,
    *,
    weight_decay: float,
    momentum: float,
) -> Optimizer:
    """Build PyTorch's Muon with AdamW, at updates of AdamW's size."""
    return MuonAndAdamW(model, lr, weight_decay=weight_decay, momentum=momentum)


def original_muon(
    model: nn.Module, lr: float, schedule: Schedule, *, momentum: float, adamw_lr: float
) -> Optimizer:
    """Build PyTorch's Muon as its author sets it.

    AdamW takes the rest, the first and the last layer; `adamw_lr` is its rate where
    Muon's is 0.02.
    """
    return MuonAndAdamW(
        model,
        lr,
        weight_decay=0.0,
        momentum=momentum,
        scale="original",
        adamw_share=adamw_lr / 0.02,
        adamw_betas=(0.9, 0.95),
        skips_first=True,
    )


def schedule_free(
    model: nn.Module, lr: float, schedule: Schedule, *, weight_decay: float
) -> Optimizer:
    """Build the package `schedulefree`'s AdamW."""
    from schedulefree import AdamWScheduleFree  # extra [benchmarks]

    return AdamWScheduleFree(
        model.parameters(),
        lr=lr,
        weight_decay=weight_decay,
        warmup_steps=round(schedule.warmup * schedule.steps),
    )


def prodigy(model: nn.Module, lr: float, schedule: Schedule) -> Optimizer:
    """Build the package `prodigyopt`'s Prodigy, which estimates the rate itself."""
    from prodigyopt import Prodigy  # extra [benchmarks]

    return Prodigy(model.parameters(), lr=lr)


def soap(
    model: nn.Module,
    lr: float,
    schedule: Schedule,
    *,
    weight_decay: float,
    every: int,
) -> Optimizer:
    """Build the package `pytorch_optimizer`'s SOAP."""
    from pytorch_optimizer import SOAP  # extra [benchmarks]

    return SOAP(
        model.parameters(),
        lr=lr,
        betas=(0.95, 0.95),
        weight_decay=weight_decay,
        precondition_frequency=every,
    )


def ademamix(
    model: nn.Module,
    lr: float,
    schedule: Schedule,
    *,
    weight_decay: float,
    alpha: float,
) -> Optimizer:
    """Build the package `pytorch_optimizer`'s AdEMAMix.

    Where the horizon is known, the slow average warms up over the whole run.
    """
    from pytorch_optimizer import AdEMAMix  # extra [benchmarks]

    return AdEMAMix(
        model.parameters(),
        lr=lr,
        betas=(0.9, 0.999, 0.9999),
        weight_decay=weight_decay,
        weight_decouple=True,
        alpha=alpha,
        t_alpha_beta3=None if schedule.decay == "none" else schedule.steps,
    )


def normuon(
    model: nn.Module,
    lr: float,
    schedule: Schedule,
    *,
    momentum: float,
    beta2: float,
    adamw_lr: float,
) -> Optimizer:
    """Build the package `pytorch_optimizer`'s NorMuon.

    AdamW takes all but the hidden weights; `adamw_lr` is its rate where NorMuon's is
    0.02.
    """
    from pytorch_optimizer import NorMuon  # extra [benchmarks]

    weights = hidden_weights(model)
    is_hidden = {id(weight) for weight in weights}
    others = [param for param in model.parameters() if id(param) not in is_hidden]
    groups = [
        {"params": weights, "use_muon": True, "lr": lr},
        {"params": others, "use_muon": False, "lr": lr * adamw_lr / 0.02},
    ]
    return NorMuon(
        [group for group in groups if group["params"]], momentum=momentum, beta2=beta2
    )


def scheduled(optimizer: Optimizer, schedule: Schedule) -> Optimizer:
    """Multiply the learning rate by a factor that follows the optimizer's steps.

    Args:
        optimizer: at its highest learning rate.
        schedule: how the factor changes.
    """
    match schedule.decay:
        case "none":
            return optimizer
        case "cosine":
            factor = cosine(schedule.steps, schedule.warmup)
        case "linear":
            factor = linear(schedule.steps)
    rates = LambdaLR(optimizer, factor)
    optimizer.register_step_post_hook(lambda *_: rates.step())
    return optimizer
