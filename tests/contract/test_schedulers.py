"""Every scheduler of torch, and that it does what it does to SGD."""

import inspect

import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from l2o import NeuralGraphOpt

SCHEDULERS = {
    "LambdaLR": lambda opt: lrs.LambdaLR(opt, lambda step: 0.9**step),
    "MultiplicativeLR": lambda opt: lrs.MultiplicativeLR(opt, lambda step: 0.9),
    "StepLR": lambda opt: lrs.StepLR(opt, 2),
    "MultiStepLR": lambda opt: lrs.MultiStepLR(opt, [1, 3]),
    "ConstantLR": lambda opt: lrs.ConstantLR(opt, 0.3, 3),
    "LinearLR": lambda opt: lrs.LinearLR(opt, 0.3, total_iters=4),
    "ExponentialLR": lambda opt: lrs.ExponentialLR(opt, 0.8),
    "PolynomialLR": lambda opt: lrs.PolynomialLR(opt, 5, 2.0),
    "CosineAnnealingLR": lambda opt: lrs.CosineAnnealingLR(opt, 5),
    "CosineAnnealingWarmRestarts": lambda opt: lrs.CosineAnnealingWarmRestarts(opt, 3),
    "SequentialLR": lambda opt: lrs.SequentialLR(
        opt, [lrs.ConstantLR(opt, 0.1), lrs.ExponentialLR(opt, 0.9)], [2]
    ),
    "ChainedScheduler": lambda opt: lrs.ChainedScheduler(
        [lrs.ConstantLR(opt, 0.1, 2), lrs.ExponentialLR(opt, 0.9)]
    ),
    "CyclicLR": lambda opt: lrs.CyclicLR(opt, 0.1, 1.0, 2, cycle_momentum=False),
    "OneCycleLR": lambda opt: lrs.OneCycleLR(
        opt, 1.0, total_steps=8, cycle_momentum=False
    ),
    "SWALR": lambda opt: SWALR(opt, 0.1, anneal_epochs=3),
    "ReduceLROnPlateau": lambda opt: lrs.ReduceLROnPlateau(opt, patience=0),
}
CYCLES = {
    "CyclicLR": lambda opt: lrs.CyclicLR(opt, 0.1, 1.0, 2),
    "OneCycleLR": lambda opt: lrs.OneCycleLR(opt, 1.0, total_steps=8),
}


def groups_of(model):
    first, *rest = model.parameters()
    return [{"params": rest}, {"params": [first], "lr": 0.5}]


@pytest.fixture
def run(rule, build_model, train):
    """Train under a scheduler; return the model, the optimizer and the rates."""

    def take(build, lr=1.0, steps=6):
        model = build_model()
        optimizer = NeuralGraphOpt(groups_of(model), lr=lr, rule=rule)
        scheduler = build(optimizer)
        rates = [[float(group["lr"]) for group in optimizer.param_groups]]

        def after():
            needs_loss = isinstance(scheduler, lrs.ReduceLROnPlateau)
            scheduler.step(*[1.0] * needs_loss)
            rates.append([float(group["lr"]) for group in optimizer.param_groups])

        train(model, optimizer, range(steps), after)
        return model, optimizer, rates

    return take


def test_the_list_is_complete():
    named = {
        name
        for name in lrs.__all__
        if inspect.isclass(getattr(lrs, name)) and name != "LRScheduler"
    }
    assert named <= SCHEDULERS.keys()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("is_tensor", [False, True], ids=["number", "tensor"])
def test_rates_are_those_of_sgd_and_are_obeyed(
    name, is_tensor, run, rule, build_model, train, assert_same
):
    lr = torch.tensor(1.0) if is_tensor else 1.0
    model, _, rates = run(SCHEDULERS[name], lr)
    assert len({rate for rate, _ in rates}) > 1

    plain = torch.optim.SGD(groups_of(build_model()), lr=1.0)
    scheduler = SCHEDULERS[name](plain)
    for found in rates:
        expected = [float(group["lr"]) for group in plain.param_groups]
        assert found == pytest.approx(expected)
        plain.step()
        scheduler.step(*[1.0] * (name == "ReduceLROnPlateau"))

    twin = build_model()
    optimizer = NeuralGraphOpt(groups_of(twin), rule=rule)
    for number, found in enumerate(rates[:-1]):
        for group, rate in zip(optimizer.param_groups, found, strict=True):
            group["lr"] = torch.tensor(rate) if is_tensor else rate
        train(twin, optimizer, [number])
    assert_same(model, twin)


@pytest.mark.parametrize("name", CYCLES)
def test_a_cycled_momentum_is_announced_and_changes_nothing(name, run, assert_same):
    """A rule's decays are those that it was meta-trained with."""
    with pytest.warns(
        UserWarning, match=r"fixed decays.*cycle_momentum=False"
    ) as found:
        model, optimizer, rates = run(CYCLES[name])
    assert len(found) == 1
    assert optimizer.param_groups[0]["betas"] != (0.9, 0.999)
    twin, _, expected = run(SCHEDULERS[name])
    assert rates == expected
    assert_same(model, twin)


def test_betas_are_no_setting(rule, model):
    with pytest.raises(ValueError, match=r"fixed decays.*Leave betas out"):
        NeuralGraphOpt(
            [{"params": model.parameters(), "betas": (0.8, 0.999)}], rule=rule
        )


def test_a_scheduled_run_can_stop_and_go_on(
    run, rule, build_model, train, assert_same, through_a_file
):
    def build(opt):
        return lrs.CosineAnnealingLR(opt, 6)

    whole, _, _ = run(build)
    model, optimizer, rates = run(build, steps=3)
    saved = through_a_file([model.state_dict(), optimizer.state_dict()])
    twin = build_model(seed=1)
    twin.load_state_dict(saved[0])
    other = NeuralGraphOpt(groups_of(twin), rule=rule)
    scheduler = build(other)
    scheduler.last_epoch = 3
    other.load_state_dict(saved[1])
    assert other.param_groups[0]["lr"] == rates[-1][0]
    train(twin, other, range(3, 6), scheduler.step)
    assert_same(twin, whole)
