"""How hand-designed optimizers are built, with the schedules that users give them."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from l2o.schedules import cosine_factor

from .muon import MuonAndAdamW, hidden_weights

Decay: TypeAlias = Literal["none", "linear", "cosine"]
"""How a learning rate falls towards the last step; "none" keeps it."""


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


def adam(model: nn.Module, lr: float, steps: int) -> Optimizer:
    """Build PyTorch's Adam at a constant rate."""
    return torch.optim.Adam(model.parameters(), lr=lr)


def adamw(
    model: nn.Module,
    lr: float,
    steps: int,
    *,
    weight_decay: float,
    decay: Decay = "cosine",
    warmup: float = 0.0,
) -> Optimizer:
    """Build PyTorch's AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    return scheduled(optimizer, decay, steps, warmup)


def sgd(
    model: nn.Module,
    lr: float,
    steps: int,
    *,
    momentum: float,
    weight_decay: float,
    decay: Decay = "cosine",
    warmup: float = 0.0,
) -> Optimizer:
    """Build PyTorch's SGD with Nesterov's momentum."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=True,
    )
    return scheduled(optimizer, decay, steps, warmup)


def muon(
    model: nn.Module,
    lr: float,
    steps: int,
    *,
    weight_decay: float,
    momentum: float,
    decay: Decay = "linear",
) -> Optimizer:
    """Build PyTorch's Muon with AdamW, at updates of AdamW's size."""
    optimizer = MuonAndAdamW(model, lr, weight_decay=weight_decay, momentum=momentum)
    return scheduled(optimizer, decay, steps)


def original_muon(
    model: nn.Module,
    lr: float,
    steps: int,
    *,
    momentum: float,
    adamw_lr: float,
    decay: Decay,
) -> Optimizer:
    """Build PyTorch's Muon as its author sets it.

    AdamW takes the rest, the first and the last layer; `adamw_lr` is its rate where
    Muon's is 0.02.
    """
    optimizer = MuonAndAdamW(
        model,
        lr,
        weight_decay=0.0,
        momentum=momentum,
        scale="original",
        adamw_share=adamw_lr / 0.02,
        adamw_betas=(0.9, 0.95),
        skips_first=True,
    )
    return scheduled(optimizer, decay, steps)


def schedule_free(
    model: nn.Module, lr: float, steps: int, *, weight_decay: float, warmup: float
) -> Optimizer:
    """Build the package `schedulefree`'s AdamW."""
    from schedulefree import AdamWScheduleFree  # extra [benchmarks]

    return AdamWScheduleFree(
        model.parameters(),
        lr=lr,
        weight_decay=weight_decay,
        warmup_steps=round(warmup * steps),
    )


def prodigy(model: nn.Module, lr: float, steps: int, *, decay: Decay) -> Optimizer:
    """Build the package `prodigyopt`'s Prodigy, which estimates the rate itself."""
    from prodigyopt import Prodigy  # extra [benchmarks]

    optimizer = Prodigy(model.parameters(), lr=lr)
    return scheduled(optimizer, decay, steps)


def soap(
    model: nn.Module,
    lr: float,
    steps: int,
    *,
    weight_decay: float,
    every: int,
    decay: Decay,
) -> Optimizer:
    """Build the package `pytorch_optimizer`'s SOAP."""
    from pytorch_optimizer import SOAP  # extra [benchmarks]

    optimizer = SOAP(
        model.parameters(),
        lr=lr,
        betas=(0.95, 0.95),
        weight_decay=weight_decay,
        precondition_frequency=every,
    )
    return scheduled(optimizer, decay, steps)


def ademamix(
    model: nn.Module,
    lr: float,
    steps: int,
    *,
    weight_decay: float,
    alpha: float,
    decay: Decay,
) -> Optimizer:
    """Build the package `pytorch_optimizer`'s AdEMAMix.

    Where the horizon is known, the slow average warms up over the whole run.
    """
    from pytorch_optimizer import AdEMAMix  # extra [benchmarks]

    optimizer = AdEMAMix(
        model.parameters(),
        lr=lr,
        betas=(0.9, 0.999, 0.9999),
        weight_decay=weight_decay,
        weight_decouple=True,
        alpha=alpha,
        t_alpha_beta3=None if decay == "none" else steps,
    )
    return scheduled(optimizer, decay, steps)


def normuon(
    model: nn.Module,
    lr: float,
    steps: int,
    *,
    momentum: float,
    beta2: float,
    adamw_lr: float,
    decay: Decay,
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
    optimizer = NorMuon(
        [group for group in groups if group["params"]], momentum=momentum, beta2=beta2
    )
    return scheduled(optimizer, decay, steps)


def scheduled(
    optimizer: Optimizer, decay: Decay, steps: int, warmup: float = 0.0
) -> Optimizer:
    """Multiply the learning rate by a factor that follows the optimizer's steps.

    Args:
        optimizer: at its highest learning rate.
        decay: how the factor falls to zero.
        steps: length of the run.
        warmup: share of the run over which the factor rises, where `decay` is a cosine.
    """
    if decay == "none":
        return optimizer
    factor = cosine(steps, warmup) if decay == "cosine" else linear(steps)
    schedule = LambdaLR(optimizer, factor)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer
