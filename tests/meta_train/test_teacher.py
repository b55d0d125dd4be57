import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from l2o import NeuralGraphOpt, Rule, RuleConfig
from l2o.rule.config import NominalHeadConfig
from l2o.rule.newton_schulz import whiten
from meta_train.estimator_config import ImitationConfig
from meta_train.teacher import Teacher

CONFIG = ImitationConfig(
    matrix_rate=0.5, vector_rate=2.0, warmup=4, decay_steps=10.0, decay_power=2.0
)


def first_update(shape, steps=1):
    """Return the teacher's update after `steps` equal gradients, and the gradient."""
    generator = torch.Generator().manual_seed(0)
    param = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    optimizer = NeuralGraphOpt([param], rule=Teacher(CONFIG, step_size=0.1))
    for _ in range(steps):
        before = param.detach().clone()
        param.grad = grad.clone()
        optimizer.step()
    return param.detach() - before, grad


@pytest.mark.parametrize(("steps", "rate"), [(1, 0.25 / 1.01), (6, 1 / 1.36)])
def test_vectors_follow_adam_on_the_schedule(steps, rate):
    update, grad = first_update((5,), steps)
    assert_close(update, -0.1 * rate * 2.0 * grad.sign(), rtol=1e-6, atol=0)


def test_with_a_known_end_its_rate_falls_in_a_line():
    param = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = NeuralGraphOpt(
        [param], rule=Teacher(CONFIG, step_size=0.1), total_steps=10
    )
    for _ in range(6):
        before = param.detach().clone()
        param.grad = torch.ones_like(param)
        optimizer.step()
    update = param.detach() - before
    assert_close(update, torch.full_like(update, -0.1 * 2.0 * 0.5), rtol=1e-6, atol=0)


def test_matrices_follow_the_whitened_momentum():
    update, grad = first_update((4, 3, 2))
    expected = whiten(grad.flatten(1)).reshape(grad.shape)
    assert_close(update, -0.1 * 0.25 / 1.01 * 0.5 * expected, rtol=1e-9, atol=1e-12)


def test_wide_maps_move_in_small_units():
    update, grad = first_update((4, 16, 16))
    expected = 0.25 * whiten(grad.flatten(1)).reshape(grad.shape)
    assert_close(update, -0.1 * 0.25 / 1.01 * 0.5 * expected, rtol=1e-9, atol=1e-12)


def test_tables_follow_adam():
    table = torch.nn.Embedding(5, 3)
    optimizer = NeuralGraphOpt(table.parameters(), rule=Teacher(CONFIG))
    before = table.weight.detach().clone()
    table(torch.tensor([0, 2])).square().sum().backward()
    optimizer.step()
    sign = table.weight.grad.sign()
    expected = before - 0.01 * 0.25 / 1.01 * 2.0 * sign
    assert_close(table.weight.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("base", "is_teacher"), [("whitened", True), ("adam", False)])
def test_an_untrained_rule_may_be_the_teacher(base, is_teacher):
    """Without a schedule and with one rate for all, it is what the head's base says."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(75, 4)).double()
    head = NominalHeadConfig(base=base)
    plain = ImitationConfig(
        matrix_rate=1.0, vector_rate=1.0, warmup=1, decay_steps=1e30
    )
    rules = Rule(RuleConfig(head=head)).double(), Teacher(plain, units=head.units)
    found = []
    for rule in rules:
        network = copy.deepcopy(model)
        optimizer = NeuralGraphOpt(network.parameters(), rule=rule)
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            inputs = torch.randn(5, 1, 7, 7, generator=generator, dtype=torch.float64)
            optimizer.zero_grad()
            network(inputs).square().mean().backward()
            optimizer.step()
        found.append(torch.cat([param.flatten() for param in network.parameters()]))
    assert torch.allclose(*found, rtol=0, atol=1e-12) == is_teacher


def test_the_law_can_fail():
    update, grad = first_update((4, 3))
    with pytest.raises(AssertionError):
        assert_close(update, -0.1 * 0.25 / 1.01 * 0.5 * grad, rtol=1e-2, atol=0)


def test_whitening_evens_out_singular_values():
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)).double()
    before = torch.linalg.svdvals(matrix * torch.arange(1, 7)[:, None])
    after = torch.linalg.svdvals(whiten(matrix * torch.arange(1, 7)[:, None]))
    assert before[0] / before[-1] > 4
    assert after[0] / after[-1] < 1.8
