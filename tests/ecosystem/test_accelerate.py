"""Under Hugging Face accelerate, each step is the one that plain PyTorch takes."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from l2o import PRESETS, NeuralGraphOpt

SIZE, BATCHES = 4, 6


@pytest.fixture
def accelerator(accelerate):
    """Build an accelerator, as if it were the first of its process."""

    def build(**settings):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        return accelerate.Accelerator(cpu=True, **settings)

    return build


@pytest.fixture
def parts(random_rule):
    """Build the same model, optimizer, batches and schedule each time."""

    def build(**settings):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
            data = TensorDataset(
                torch.randn(SIZE * BATCHES, 3), torch.randn(SIZE * BATCHES, 2)
            )
        rule = random_rule(PRESETS["default"], dtype=torch.float32)
        optimizer = NeuralGraphOpt(model.parameters(), lr=0.5, rule=rule, **settings)
        schedule = StepLR(optimizer, step_size=1, gamma=0.8)
        return model, optimizer, DataLoader(data, SIZE), schedule

    return build


def train(model, optimizer, batches, schedule, *, accelerator, skip=0):
    """Take one pass the way of accelerate, but for the first batches."""
    for index, (inputs, targets) in enumerate(batches):
        if index < skip:
            continue
        with accelerator.accumulate(model):
            loss = functional.mse_loss(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def train_plainly(model, optimizer, batches, schedule, *, accumulate=1, dtype=None):
    for index, (inputs, targets) in enumerate(batches, start=1):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            outputs = model(inputs)
        loss = functional.mse_loss(outputs.float(), targets)
        (loss / accumulate).backward()
        if index % accumulate == 0:
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def assert_same_weights(model, other):
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(param, expected)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_its_run_is_the_plain_one(accelerator, parts, accumulate, precision):
    plain = parts()
    dtype = torch.bfloat16 if precision == "bf16" else None
    train_plainly(*plain, accumulate=accumulate, dtype=dtype)
    outer = accelerator(
        mixed_precision=precision, gradient_accumulation_steps=accumulate
    )
    prepared = outer.prepare(*parts())
    train(*prepared, accelerator=outer)
    assert_same_weights(prepared[0], plain[0])
    state = next(iter(prepared[1].state.values()))
    assert state["step"] == BATCHES // accumulate
    assert state["momenta"].dtype == torch.float32
    assert prepared[3].get_last_lr() == plain[3].get_last_lr()


def test_a_saved_state_goes_on_as_if_it_had_not_stopped(accelerator, parts, tmp_path):
    outer = accelerator()
    whole = outer.prepare(*parts())
    train(*whole, accelerator=outer)
    outer = accelerator()
    first = outer.prepare(*parts())
    half = list(first[2])[: BATCHES // 2]
    train(first[0], first[1], half, first[3], accelerator=outer)
    outer.save_state(str(tmp_path))

    outer = accelerator()
    model, *others = parts()
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    prepared = outer.prepare(model, *others)
    outer.load_state(str(tmp_path))
    train(*prepared, accelerator=outer, skip=BATCHES // 2)
    assert_same_weights(prepared[0], whole[0])
    assert prepared[3].get_last_lr() == whole[3].get_last_lr()


def test_averaged_weights_are_the_plain_ones(accelerator, parts):
    plain = parts(average=True)
    train_plainly(*plain)
    outer = accelerator()
    model, optimizer, batches, schedule = outer.prepare(*parts(average=True))
    train(model, optimizer, batches, schedule, accelerator=outer)
    plain[1].use_average()
    with pytest.raises(AssertionError):
        assert_same_weights(model, plain[0])
    with optimizer.optimizer.averaged():
        assert_same_weights(outer.unwrap_model(model), plain[0])


def test_the_comparison_can_fail(accelerator, parts):
    plain = parts()
    train_plainly(*plain)
    outer = accelerator()
    model, optimizer, batches, schedule = outer.prepare(*parts())
    train(model, optimizer, batches, schedule, accelerator=outer, skip=1)
    with pytest.raises(AssertionError):
        assert_same_weights(model, plain[0])
