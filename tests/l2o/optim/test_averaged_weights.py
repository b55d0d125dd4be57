"""Averages of the weights: their formula, and that using them changes nothing."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from l2o import NeuralGraphOpt


def build(**settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    settings = {"rule": "ff", "average": True, **settings}
    return model, NeuralGraphOpt(model.parameters(), **settings)


def train(model, optimizer, first, last, bad=None):
    """Take steps; return the weights after each."""
    found = []
    for seed in range(first, last):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(16, 4, generator=generator)
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :2].tanh()).square().mean().backward()
        if seed == bad:
            model[0].bias.grad.fill_(float("nan"))
        optimizer.step()
        found.append([param.detach().clone() for param in model.parameters()])
    return found


def average_of(weights):
    """The formula, one parameter at a time."""
    average = weights[0].clone()
    for step, weight in enumerate(weights):
        average = average + (weight - average) / (1 + step / 10)
    return average


def values(model):
    return [param.detach().clone() for param in model.parameters()]


@pytest.mark.parametrize(
    "settings",
    [{}, {"rule": "ng-gnn-neurons"}, {"safety": None}],
    ids=str,
)
def test_the_average_is_its_formula(settings):
    model, optimizer = build(**settings)
    path = train(model, optimizer, 0, 12)
    plain, alone = build(**settings, average=False)
    assert all(map(torch.equal, path[-1], train(plain, alone, 0, 12)[-1]))
    with optimizer.averaged():
        for number, param in enumerate(model.parameters()):
            expected = average_of([weights[number] for weights in path])
            torch.testing.assert_close(param.detach(), expected, rtol=1e-5, atol=1e-6)
            assert not torch.equal(param, path[-1][number])
    assert all(map(torch.equal, values(model), path[-1]))


def test_a_plain_mean_is_not_the_formula():
    model, optimizer = build()
    path = train(model, optimizer, 0, 12)
    with optimizer.averaged():
        mean = torch.stack([weights[0] for weights in path]).mean(0)
        assert not torch.allclose(model[0].weight, mean, rtol=1e-5, atol=1e-6)


def test_an_error_inside_gives_the_weights_back():
    model, optimizer = build()
    last = train(model, optimizer, 0, 3)[-1]
    with pytest.raises(KeyError), optimizer.averaged():
        raise KeyError
    assert all(map(torch.equal, values(model), last))
    train(model, optimizer, 3, 4)


def test_it_can_be_left_in_the_model():
    model, optimizer = build()
    train(model, optimizer, 0, 5)
    with optimizer.averaged():
        expected = values(model)
    optimizer.use_average()
    assert all(map(torch.equal, values(model), expected))


def test_a_run_that_is_resumed_is_never_stopped():
    whole, one = build()
    train(whole, one, 0, 9)
    model, optimizer = build()
    train(model, optimizer, 0, 5)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other, again = build()
    other.load_state_dict(weights)
    again.load_state_dict(state)
    train(other, again, 5, 9)
    with one.averaged(), again.averaged():
        assert all(map(torch.equal, values(whole), values(other)))


def test_a_copy_keeps_its_own():
    model, optimizer = build()
    train(model, optimizer, 0, 3)
    both = copy.deepcopy((model, optimizer))
    train(model, optimizer, 3, 6)
    train(*both, 3, 6)
    with optimizer.averaged(), both[1].averaged():
        assert all(map(torch.equal, values(model), values(both[0])))


def test_a_skipped_step_is_not_counted():
    model, optimizer = build()
    train(model, optimizer, 0, 6, bad=3)
    plain, one = build()
    for first, last in ((0, 3), (4, 6)):
        train(plain, one, first, last)
    with optimizer.averaged(), one.averaged():
        assert all(map(torch.equal, values(model), values(plain)))


def test_parameters_that_rest_or_come_late():
    model, optimizer = build()
    model[0].requires_grad_(requires_grad=False)
    start = values(model[0])
    train(model, optimizer, 0, 4)
    with optimizer.averaged():
        assert all(map(torch.equal, values(model[0]), start))
    model[0].requires_grad_()
    path = train(model, optimizer, 4, 8)
    with optimizer.averaged():
        expected = average_of([weights[0] for weights in path])
        torch.testing.assert_close(model[0].weight.detach(), expected)


def test_a_bfloat16_model_has_a_wide_average():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).bfloat16()
    optimizer = NeuralGraphOpt(
        layer.parameters(), rule="ff", average=True, state_dtype=torch.bfloat16
    )
    for _ in range(4):
        optimizer.zero_grad()
        layer(torch.ones(2, 4, dtype=torch.bfloat16)).square().sum().backward()
        optimizer.step()
    item = optimizer.state[layer.weight]
    assert item["average"].dtype == torch.float32
    assert item["momenta"].dtype == torch.bfloat16
    again = NeuralGraphOpt(
        layer.parameters(), rule="ff", average=True, state_dtype=torch.bfloat16
    )
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.state[layer.weight]["average"], item["average"])


def test_a_checkpoint_without_an_average_starts_one():
    model, optimizer = build(average=False)
    last = train(model, optimizer, 0, 3)[-1]
    _, again = build()
    again = NeuralGraphOpt(model.parameters(), rule="ff", average=True)
    again.load_state_dict(optimizer.state_dict())
    path = train(model, again, 3, 4)
    with again.averaged():
        assert all(map(torch.equal, values(model), path[-1]))
    assert not torch.equal(path[-1][0], last[0])


def test_running_statistics_are_measured_again():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    optimizer = NeuralGraphOpt(model.parameters(), rule="ff", average=True)
    batches = [torch.randn(32, 4) for _ in range(4)]
    for batch in batches:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    before = model[1].running_mean.clone()
    with optimizer.averaged():
        update_bn(batches, model)
        hidden = model[0](torch.cat(batches)).mean(0)
    torch.testing.assert_close(model[1].running_mean, hidden)
    assert not torch.allclose(before, hidden)


def test_what_cannot_be_is_refused():
    model, optimizer = build(average=False)
    train(model, optimizer, 0, 1)
    with pytest.raises(ValueError, match="Build it with average=True"):
        optimizer.use_average()
    with pytest.raises(ValueError, match="Build it"), optimizer.averaged():
        pass
    model, optimizer = build()
    train(model, optimizer, 0, 1)
    with optimizer.averaged():
        with pytest.raises(ValueError, match="Leave `with optimizer"):
            optimizer.step()
        with pytest.raises(ValueError, match="Leave that first"), optimizer.averaged():
            pass
