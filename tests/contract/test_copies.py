"""Copies of an optimizer, whatever else hangs on it."""

import copy
import pickle

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from l2o import NeuralGraphOpt


def ignore(*args):
    """A hook that a pickle can name."""


@pytest.mark.parametrize("compiled", [False, True])
def test_a_copy_has_everything_public(rule, model, train, duplicate, compiled):
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule, compile=compiled)
    if not compiled:
        train(model, optimizer, range(2))
    twin = duplicate(optimizer)
    public = {name for name in vars(optimizer) if not name.startswith("_")}
    assert public == {name for name in vars(twin) if not name.startswith("_")}
    assert twin.diagnostics() == optimizer.diagnostics()
    assert twin.graph == optimizer.graph
    assert repr(twin) == repr(optimizer)


def test_a_copy_of_a_scheduled_optimizer_goes_on_alone(
    rule, build_model, train, assert_same, duplicate
):
    """A scheduler wraps `step`, in a way that no pickle can hold."""
    pairs = []
    for _ in range(2):
        model = build_model()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        StepLR(optimizer, 1)
        train(model, optimizer, range(2))
        pairs.append((model, optimizer))
    model, optimizer = pairs[0]
    twin_model, twin = duplicate((model, optimizer))
    train(twin_model, twin, range(2, 4))
    assert_same(model, pairs[1][0])
    train(*pairs[1], range(2, 4))
    assert_same(twin_model, pairs[1][0])


@pytest.mark.parametrize("other", [torch.optim.SGD, NeuralGraphOpt])
def test_hooks_stay_behind(model, duplicate, other):
    """As with torch's own: a hook may hold anything."""
    optimizer = other(model.parameters(), lr=0.1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("step"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("state_dict"))
    twin = duplicate(optimizer)
    twin.step()
    twin.state_dict()
    assert calls == []
    twin.register_step_post_hook(ignore)
    twin.step()
    optimizer.step()
    assert calls == ["step"]


def test_a_copy_of_optimizer_and_model_belongs_together(
    rule, build_model, train, assert_same, duplicate
):
    model = build_model()
    optimizer = NeuralGraphOpt(model[3].parameters(), rule=rule, model=model)
    twin_model, twin = duplicate((model, optimizer))
    twin.add_param_group({"params": twin_model[0].parameters()})
    optimizer.add_param_group({"params": model[0].parameters()})
    train(twin_model, twin, range(2))
    train(model, optimizer, range(2))
    assert_same(twin_model, model)


def test_a_copy_counts_for_itself(rule, model, train):
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    train(model, optimizer, range(2))
    pair = copy.deepcopy((model, optimizer))
    train(*pair, range(3))
    assert pair[1].diagnostics().steps == 5
    assert optimizer.diagnostics().steps == 2


def test_a_subclass_is_copied_like_one_of_torch(rule, model, duplicate):
    twin = duplicate(Renamed(model.parameters(), rule=rule))
    assert type(twin) is Renamed
    assert pickle.dumps(twin)


class Renamed(NeuralGraphOpt):
    """As Lightning and others derive from optimizers."""
