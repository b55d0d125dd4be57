import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from device_work import Waits
from torch import nn
from torch.nn.functional import mse_loss

from optimizees import (
    ACCURACY,
    MEAN_SQUARED_ERROR,
    MLP,
    Batch,
    BatchSampler,
    ConvNet,
    Task,
    cut,
    fashion_cnn,
    image_task,
    load_fashion_mnist,
    restoring,
)
from optimizees.batches import MappedBatches, Mover, batches_on
from optimizees.data.text import TextSampler, text_split


@pytest.fixture
def task(data):
    build = partial(ConvNet, 1, (3, 4))
    return image_task("small", build, data, batch_size=6, held_out={"test": data})


def evaluate(task, *batches, model=None):
    """Evaluate a network, the identity by default, on some batches."""
    task = replace(task, held_out={"test": batches})
    return task.evaluate(nn.Identity() if model is None else model, "test")


def same(first, second):
    return all(map(torch.equal, first.parameters(), second.parameters()))


class TestInit:
    def test_the_seed_decides_every_value(self, task):
        assert same(task.init_model(3), task.init_model(3))
        assert not same(task.init_model(3), task.init_model(4))

    def test_it_is_the_default_init_of_pytorch(self, task):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            assert same(task.build_model(), task.init_model(3))

    def test_the_global_generator_stays_as_it_was(self, task):
        before = torch.get_rng_state()
        model = task.init_model(seed=3)
        task.loss(model, task.batches(0).next())
        task.evaluate(model, "test")
        assert torch.equal(torch.get_rng_state(), before)


class TestLoss:
    def test_it_is_the_cross_entropy_of_the_network(self, task):
        model, batch = task.init_model(seed=0), task.batches(1).next()
        expected = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        assert task.loss(model, batch).item() == expected.item()

    def test_any_criterion_and_several_inputs_will_do(self):
        data = Batch((torch.ones(6, 2), torch.ones(6, 3)), torch.zeros(6, 4))
        task = Task(
            name="pairs",
            build_model=partial(nn.Bilinear, 2, 3, 4),
            batches=partial(BatchSampler, data, 2),
            criterion=lambda outputs, targets: (outputs - targets).abs().mean(),
        )
        model = task.init_model(0)
        expected = model(torch.ones(2), torch.ones(3)).abs().mean()
        found = task.loss(model, task.batches(0).next())
        torch.testing.assert_close(found, expected)

    def test_restoring_takes_the_inputs_as_targets(self, task):
        task = restoring(task)
        batch = task.batches(1).next()
        assert batch.targets is batch.inputs
        assert task.loss(nn.Identity(), batch).item() == 0
        assert task.evaluate(nn.Identity(), "test") == (0.0, None)


class TestEvaluate:
    def test_pieces_do_not_change_it(self, task, data):
        model, whole = task.init_model(0), Batch(data.images, data.labels)
        expected = evaluate(task, whole, model=model)
        with torch.no_grad():
            hits = model(data.images).argmax(1) == data.labels
        assert expected.metric == hits.double().mean().item()
        for piece in (7, 40, 1000):
            found = evaluate(task, *cut(whole, piece), model=model)
            assert found.loss == pytest.approx(expected.loss, rel=1e-6)
            assert found.metric == expected.metric

    def test_a_squared_error_has_its_own_metric(self, task):
        squared = replace(task, criterion=mse_loss, metric=MEAN_SQUARED_ERROR)
        targets = torch.ones(4, 2)
        assert evaluate(squared, Batch(targets * 3, targets)) == (4.0, 4.0)
        bare = replace(squared, metric=None)
        assert evaluate(bare, Batch(targets * 3, targets)) == (4.0, None)

    def test_characters_are_classified_one_by_one(self, task):
        inputs, targets = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
        found = evaluate(task, Batch(inputs, targets))
        expected = nn.functional.cross_entropy(inputs.transpose(1, 2), targets)
        assert found.loss == pytest.approx(expected.item())
        hits = (inputs.argmax(-1) == targets).float()
        assert found.metric == pytest.approx(hits.mean().item())

    def test_outputs_that_are_no_numbers_have_no_metric(self, task):
        batch = Batch(torch.full((4, 3), torch.nan), torch.zeros(4).long())
        found = evaluate(task, batch)
        assert math.isnan(found.loss)
        assert found.metric is None

    def test_every_module_keeps_its_mode(self, task, data):
        model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1), MLP((64, 10)))
        model[1].eval()
        assert task.evaluate(model, "test") == task.evaluate(model, "test")
        assert [module.training for module in model] == [True, False, True]

    def test_a_split_that_is_not_there_is_named(self, task):
        with pytest.raises(ValueError, match=r"got 'validation'.*\['test'\]\. Pass"):
            task.evaluate(task.init_model(0), "validation")


def test_a_task_moves_with_its_data(task):
    moved = task.to("meta")
    assert moved.batches(0).next().inputs.device.type == "meta"
    assert moved.held_out["test"][0].targets.device.type == "meta"
    assert next(moved.init_model(0).parameters()).device.type == "meta"
    assert task.to("cpu") is task
    state = task.batches(0).state_dict()
    moved.batches(1).load_state_dict(state)


class TestMovedData:
    @pytest.fixture(params=["sampler", "text", "own"])
    def task(self, request, data):
        """Tasks whose samplers hold their data, and one with a sampler of its own."""
        batch = Batch(data.images, data.labels)
        text = text_split("abcdefghij" * 30, "train", name="letters")
        build = {
            "sampler": partial(BatchSampler, batch, 2),
            "text": partial(TextSampler, text, 3, 4),
            "own": lambda seed: MappedBatches(BatchSampler(batch, 2, seed), _as_it_is),
        }
        return Task(
            name="some",
            build_model=nn.Flatten,
            batches=build[request.param],
            held_out={"test": [batch]},
            source=request.param,
        )

    def test_they_are_copied_once(self, task):
        """But for a sampler that does not hold them, which copies each batch."""
        moved = task.to("meta")
        first, other = moved.batches(0), moved.batches(1)
        if task.source == "own":
            assert first.next().inputs.device.type == "meta"
            return
        for one, two in zip(
            _tensors_of(first.data), _tensors_of(other.data), strict=True
        ):
            assert one is two
        if task.source == "sampler":
            assert first.data.inputs is moved.held_out["test"][0].inputs

    def test_drawing_a_batch_waits_for_nothing(self, task):
        batches = task.to("meta").batches(0)
        with Waits() as waits:
            batch = batches.next()
        assert waits.found == []
        assert batch.inputs.device.type == batch.targets.device.type == "meta"

    def test_the_batches_stay_the_same(self, task):
        """Copied within the CPU, they are those of the task itself."""
        batches, move = task.batches(3), Mover(torch.device("cpu"))
        same = batches_on(task.batches(3), torch.device("cpu"), move)
        for _ in range(4):
            for one, two in zip(batches.next(), same.next(), strict=True):
                assert torch.equal(one, two)
        again = batches_on(task.batches(0), torch.device("cpu"), move)
        again.load_state_dict(batches.state_dict())
        assert torch.equal(again.next().inputs, batches.next().inputs)


def _as_it_is(batch):
    return batch


def _tensors_of(data):
    return [data.tokens] if hasattr(data, "tokens") else list(data)


def test_metrics_say_which_direction_is_good():
    assert ACCURACY.higher_is_better
    assert not MEAN_SQUARED_ERROR.higher_is_better


@pytest.mark.parametrize(
    "build_optimizer",
    [
        pytest.param(partial(torch.optim.SGD, lr=0.1, momentum=0.9), id="sgd"),
        pytest.param(partial(torch.optim.Adam, lr=3e-3), id="adam"),
    ],
)
def test_a_hundred_steps_on_the_embedded_images_lower_the_loss(build_optimizer):
    train = load_fashion_mnist("train", source="embedded")
    held_out = load_fashion_mnist("validation", source="embedded").subset(0, 500)
    task = image_task(
        "small", fashion_cnn, train, batch_size=32, held_out={"validation": held_out}
    )
    model = task.init_model(seed=0)
    before = task.evaluate(model, "validation")
    optimizer, batches = build_optimizer(model.parameters()), task.batches(seed=0)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model, batches.next()).backward()
        optimizer.step()
    after = task.evaluate(model, "validation")
    assert before.loss == pytest.approx(2.303, abs=0.05)  # ln 10: it knows nothing
    assert after.loss < 0.75 * before.loss
    assert after.metric > before.metric + 0.2
