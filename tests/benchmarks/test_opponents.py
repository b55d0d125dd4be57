import math

import pytest
import schedulefree
import torch
from torch import nn

from benchmarks.muon import MuonAndAdamW, hidden_weights
from benchmarks.opponent_builders import cosine, linear
from benchmarks.opponents import OPPONENTS, build_opponent, find_opponent
from optimizees.lstm import TiedLSTM


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 4)
    ).double()


def give_grads(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


@pytest.mark.parametrize("name", OPPONENTS)
def test_every_opponent_lowers_a_loss(name):
    model = small_model()
    inputs = torch.randn(16, 2, 4, 4, dtype=torch.float64)
    targets = torch.arange(16) % 4
    optimizer = build_opponent(
        name, max(0.02, OPPONENTS[name].untuned_lr), model, steps=60
    )
    if isinstance(optimizer, schedulefree.AdamWScheduleFree):
        optimizer.train()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", OPPONENTS)
@pytest.mark.parametrize("lr", [0.0, -1.0, float("inf"), float("nan")])
def test_every_opponent_needs_a_learning_rate(name, lr):
    with pytest.raises(ValueError, match=rf"got lr={lr} for {name}\. Try [01]"):
        build_opponent(name, lr, small_model(), steps=3)


def test_adam_is_that_of_torch_and_stays_constant():
    model = small_model()
    optimizer = build_opponent("adam", 0.03, model, steps=2)
    assert type(optimizer) is torch.optim.Adam
    for _ in range(3):
        give_grads(model)
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.03


@pytest.mark.parametrize(
    ("name", "factor"),
    [("adamw-cosine", cosine(10, 0.05)), ("muon", linear(10))],
)
def test_every_step_moves_the_schedule_on(name, factor):
    model = small_model()
    optimizer = build_opponent(name, 0.5, model, steps=10)
    for step in range(10):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * factor(step))
        give_grads(model)
        optimizer.step()


def test_hidden_weights_are_all_but_the_output_layers():
    def names(model):
        known = {id(param): name for name, param in model.named_parameters()}
        return [known[id(weight)] for weight in hidden_weights(model)]

    assert names(small_model()) == ["0.weight", "3.weight"]
    tied = TiedLSTM(vocabulary=11, width=3)
    assert names(tied) == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    with_head = nn.Sequential(nn.Embedding(11, 3), nn.Linear(3, 5), nn.Linear(5, 11))
    assert names(with_head) == ["1.weight"]


@pytest.mark.parametrize("name", ["soap", "normuon", "ademamix", "prodigy", "adamw"])
def test_a_linear_decay_is_the_only_difference_of_a_pair(name):
    """The first step is the same; the last one is a tenth of it."""
    rates = {}
    for ending, knows in (("", False), ("-linear", True)):
        opponent = OPPONENTS[name + ending]
        assert opponent.knows_horizon is knows
        model = small_model()
        optimizer = build_opponent(name + ending, 0.5, model, steps=10)
        for _ in range(9):
            give_grads(model)
            optimizer.step()
        rates[ending] = optimizer.param_groups[0]["lr"]
    assert rates[""] == 0.5
    assert rates["-linear"] == pytest.approx(0.05)


def test_original_muon_leaves_first_and_last_layer_to_adamw():
    model = small_model()
    before = {name: param.clone() for name, param in model.named_parameters()}
    give_grads(model)
    build_opponent("original-muon", 0.02, model, steps=9).step()
    for name, param in model.named_parameters():
        moved = (param - before[name]).detach()
        if name == "3.weight":  # spectral norm of one times the rate
            norm = torch.linalg.svdvals(moved / 0.02)
            assert bool(((norm > 0.6) & (norm < 1.3)).all())
        else:
            expected = torch.full_like(moved, 3e-4)
            torch.testing.assert_close(moved.abs(), expected, rtol=1e-4, atol=0)


def test_a_cosine_rises_then_falls_to_zero():
    factor = cosine(100, 0.1)
    assert [factor(step) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    assert factor(55) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0)
    assert 0 < factor(99) < 1e-3


def test_a_linear_decay_falls_to_zero():
    factor = linear(10)
    assert [factor(0), factor(5), factor(10), factor(11)] == [1.0, 0.5, 0.0, 0.0]


def test_schedule_free_warms_up_for_a_share_of_the_run():
    optimizer = build_opponent("schedule-free", 0.1, small_model(), steps=100)
    assert optimizer.param_groups[0]["warmup_steps"] == 5


def test_muon_orthogonalises_hidden_weights_and_adamw_moves_the_rest():
    model = small_model()
    before = {name: param.clone() for name, param in model.named_parameters()}
    optimizer = MuonAndAdamW(model, 0.1, weight_decay=0.0, momentum=0.95)
    give_grads(model)
    optimizer.step()
    moved = {
        name: (param - before[name]).detach()
        for name, param in model.named_parameters()
    }
    for name in ("0.weight", "3.weight"):
        matrix = moved[name].flatten(1) / (
            0.1 * 0.2 * math.sqrt(max(len(moved[name]), moved[name][0].numel()))
        )
        singular = torch.linalg.svdvals(matrix)
        # Newton-Schulz in bfloat16 stops anywhere in this range.
        assert bool(((singular > 0.6) & (singular < 1.3)).all())
    for name in ("0.bias", "3.bias", "4.weight", "4.bias"):
        # Adam's first step is the learning rate, up to its epsilon.
        torch.testing.assert_close(
            moved[name].abs(), torch.full_like(moved[name], 0.1), rtol=1e-5, atol=0
        )


def test_muon_leaves_a_weight_without_a_gradient_alone():
    model = small_model()
    before = [param.clone() for param in model.parameters()]
    optimizer = MuonAndAdamW(model, 0.1, weight_decay=0.01, momentum=0.95)
    assert optimizer.step(lambda: 3.0) == 3.0
    for param, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(param, old)


def test_muon_of_one_layer_is_adamw():
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        MuonAndAdamW(models[0], 0.1, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(models[1].parameters(), lr=0.1, weight_decay=0.01),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        give_grads(model)
        optimizer.step()
    assert torch.equal(models[0].weight, models[1].weight)


def test_an_unknown_opponent_is_answered_with_the_list():
    with pytest.raises(ValueError, match=r"got 'adamm'\. Check the spelling"):
        find_opponent("adamm")
