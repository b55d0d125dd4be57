"""What an optimizer says, once, of a run that goes nowhere."""

import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    OneCycleLR,
)

from l2o import NeuralGraphOpt

STEPS = 40


def one_cycle(peak):
    return lambda optimizer: OneCycleLR(
        optimizer, max_lr=peak, total_steps=STEPS, cycle_momentum=False
    )


def messages(rule, schedule=None, rate_at=None, **settings):
    """Train; return the warnings."""
    layer = nn.Linear(3, 2)
    optimizer = NeuralGraphOpt(layer.parameters(), rule=rule, **settings)
    scheduler = None if schedule is None else schedule(optimizer)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for number in range(STEPS):
            if rate_at is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate_at(number)
            for param in layer.parameters():
                param.grad = torch.ones_like(param)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return [str(item.message) for item in seen]


class TestRate:
    @pytest.mark.parametrize(
        "settings",
        [
            {"lr": 1e-3},
            {"lr": torch.tensor(3e-4)},
            {"schedule": one_cycle(1e-3)},
            {"rate_at": lambda number: 6e-4},
            {"rate_at": lambda number: 6e-4 * min(1, number / 10)},
            {"lr": 1e-3, "schedule": lambda o: CosineAnnealingLR(o, STEPS)},
        ],
    )
    def test_those_of_adam_are_met_by_one_warning(self, rule, settings):
        (message,) = messages(rule, **settings)
        assert "write lr=1.0" in message

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"lr": 0.05},
            {"lr": 0.0},
            {"schedule": one_cycle(1.0)},
            {"schedule": lambda o: CosineAnnealingLR(o, STEPS)},
            {"schedule": lambda o: ConstantLR(o, factor=1e-3, total_iters=5)},
            {"schedule": lambda o: LambdaLR(o, lambda n: min(1, n / 100))},
            {
                "lr": 1e-3,
                "schedule": lambda o: CyclicLR(o, 1e-3, 1.0, cycle_momentum=False),
            },
            {"rate_at": lambda number: number / 1000},
        ],
    )
    def test_others_are_not(self, rule, settings):
        assert messages(rule, **settings) == []

    def test_one_group_with_an_ordinary_rate_is_enough(self, rule):
        """As with rates that fall from layer to layer."""
        first, last = nn.Linear(3, 2), nn.Linear(2, 1)
        groups = [{"params": first.parameters(), "lr": 1e-3}]
        groups += [{"params": last.parameters(), "lr": 0.5}]
        optimizer = NeuralGraphOpt(groups, rule=rule)
        for _ in range(3):
            last(first(torch.ones(2, 3))).sum().backward()
            optimizer.step()


class TestSkips:
    @pytest.mark.parametrize(("steps", "count"), [(19, 0), (20, 1), (60, 1)])
    def test_many_in_a_row_are_told_once(self, rule, steps, count):
        layer = nn.Linear(3, 2)
        optimizer = NeuralGraphOpt(layer.parameters(), rule=rule)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(steps):
                layer.weight.grad = torch.full_like(layer.weight, torch.nan)
                optimizer.step()
        assert len(seen) == count
        assert all("Look at the loss" in str(item.message) for item in seen)

    def test_a_step_between_them_starts_the_count_anew(self, rule):
        layer = nn.Linear(3, 2)
        optimizer = NeuralGraphOpt(layer.parameters(), rule=rule)
        for number in range(60):
            value = 1.0 if number % 15 == 0 else torch.nan
            layer.weight.grad = torch.full_like(layer.weight, value)
            optimizer.step()
        assert optimizer.diagnostics().skipped == 56
