"""A run that stops and goes on is the run that never stopped."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from l2o import NeuralGraphOpt
from optimizees import ConvNet


def build_model(dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return ConvNet(1, (3, 4), num_classes=3, image_size=6).to(dtype)


def train(model, optimizer, steps):
    """Train on one random problem; `steps` is a range of batch numbers."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(5, 1, 6, 6, generator=generator)
        labels = torch.randint(3, (5,), generator=generator)
        optimizer.zero_grad()
        logits = model(images.to(next(model.parameters()).dtype))
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()


def assert_same_run(first, second):
    """Compare parameters and optimizer states bit for bit."""
    (model, optimizer), (other_model, other_optimizer) = first, second
    pairs = zip(model.parameters(), other_model.parameters(), strict=True)
    for param, other in pairs:
        torch.testing.assert_close(param, other, rtol=0, atol=0)
        state, other_state = optimizer.state[param], other_optimizer.state[other]
        assert state.keys() == other_state.keys()
        for key in state:
            torch.testing.assert_close(state[key], other_state[key], rtol=0, atol=0)


@pytest.fixture
def start(random_rule):
    """Build a model and its optimizer, the same each time."""

    def build(config, dtype=torch.float32, **options):
        model = build_model(dtype)
        rule = random_rule(config, dtype=torch.float32)
        optimizer = NeuralGraphOpt(
            model.named_parameters(), lr=0.3, weight_decay=0.1, rule=rule, **options
        )
        return model, optimizer

    return build


def through_a_file(values):
    buffer = io.BytesIO()
    torch.save(values, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def stop_and_go_on(config, start, *args, **options):
    """Save after two steps of four; compare with the run that never stopped."""
    whole = start(config, *args, **options)
    train(*whole, range(4))
    model, optimizer = start(config, *args, **options)
    train(model, optimizer, range(2))
    saved = through_a_file([model.state_dict(), optimizer.state_dict()])
    model, optimizer = start(config, *args, **options)
    for param in model.parameters():
        nn.init.zeros_(param)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(model, optimizer, range(2, 4))
    assert_same_run((model, optimizer), whole)


def test_two_steps_saved_and_two_more_are_four(config, start):
    stop_and_go_on(config, start)


def test_so_they_are_in_bfloat16(small_config, start):
    stop_and_go_on(small_config, start, torch.bfloat16)


def test_so_they_are_with_a_narrow_state(small_config, start):
    """Its noise depends on the state's own step count, and is not saved."""
    stop_and_go_on(small_config, start, state_dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_goes_on_alike_and_apart(small_config, start, duplicate):
    whole = start(small_config)
    train(*whole, range(4))
    original = start(small_config)
    train(*original, range(2))
    twin = duplicate(original)
    train(*twin, range(2, 4))
    assert_same_run(twin, whole)
    assert int(original[1].state[original[0].head.bias]["step"]) == 2
    train(*original, range(2, 4))
    assert_same_run(original, whole)
    assert repr(twin[1]) == repr(original[1])
    assert twin[1].graph == original[1].graph


def test_a_saved_state_is_a_copy_and_stays_unchanged(small_config, start):
    model, optimizer = start(small_config)
    train(model, optimizer, range(2))
    saved = through_a_file(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    other = start(small_config)
    other[1].load_state_dict(saved)
    train(*other, range(2, 4))
    for key, state in kept["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(saved["state"][key][name], value, rtol=0, atol=0)


def test_a_state_that_a_parameter_lacks_stays_lacking(small_config, start):
    model, optimizer = start(small_config)
    model.head.requires_grad_(requires_grad=False)
    train(model, optimizer, range(2))
    saved = through_a_file(optimizer.state_dict())
    other_model, other = start(small_config)
    other.load_state_dict(saved)
    assert len(other.state) == len(optimizer.state) == 4
    assert other_model.head.bias not in other.state


class TestTheLawCanFail:
    def test_without_the_state(self, small_config, start):
        whole = start(small_config)
        train(*whole, range(4))
        model, optimizer = start(small_config)
        train(model, optimizer, range(2))
        saved = through_a_file(model.state_dict())
        model, optimizer = start(small_config)
        model.load_state_dict(saved)
        train(model, optimizer, range(2, 4))
        with pytest.raises(AssertionError):
            assert_same_run((model, optimizer), whole)

    def test_with_momenta_in_the_precision_of_the_parameters(self, small_config, start):
        """What `Optimizer.load_state_dict` would do by itself."""
        whole = start(small_config, torch.bfloat16)
        train(*whole, range(4))
        model, optimizer = start(small_config, torch.bfloat16)
        train(model, optimizer, range(2))
        saved = through_a_file([model.state_dict(), optimizer.state_dict()])
        model, optimizer = start(small_config, torch.bfloat16)
        model.load_state_dict(saved[0])
        torch.optim.Optimizer.load_state_dict(optimizer, saved[1])
        train(model, optimizer, range(2, 4))
        with pytest.raises(AssertionError):
            assert_same_run((model, optimizer), whole)
