from functools import partial

import pytest
import torch
from torch import nn

from optimizees import (
    MLP,
    Batch,
    BatchSampler,
    ConvNet,
    FunctionalTask,
    Task,
    image_task,
)


def make(data, build, **settings):
    task = image_task("small", build, data, batch_size=6, held_out={"test": data})
    return FunctionalTask(task, **settings)


@pytest.fixture
def task(data):
    return make(data, partial(ConvNet, 1, (3, 4)))


@pytest.fixture
def normed(data):
    """Batch norm with running statistics."""
    return make(data, lambda: nn.Sequential(nn.BatchNorm2d(1), MLP((64, 10))))


@pytest.fixture
def batch(task):
    return task.batches(seed=1).next()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


class TestInit:
    def test_it_is_that_of_the_module(self, task):
        model = task.task.init_model(3)
        assert_same(task.init_params(3), dict(model.state_dict()))
        assert task.init_buffers(3) == {}

    def test_the_values_are_fresh_and_outside_the_graph(self, task):
        params = task.init_params(seed=3)
        assert not any(param.requires_grad for param in params.values())
        params["head.weight"].zero_()
        assert task.init_params(seed=3)["head.weight"].any()


class TestLoss:
    def test_it_is_that_of_the_module(self, task, batch):
        model = task.task.init_model(seed=0)
        expected = task.task.loss(model, batch)
        expected.backward()
        loss, grads, _ = task.loss_and_grads(task.init_params(0), batch)
        assert not loss.requires_grad
        assert loss.item() == expected.item()
        assert_same(grads, {name: p.grad for name, p in model.named_parameters()})

    def test_gradients_come_under_no_grad_and_for_parameters_in_a_graph(
        self, task, batch
    ):
        params = task.init_params(0)
        expected = task.loss_and_grads(params, batch).grads
        in_graph = {name: p.clone().requires_grad_() * 1 for name, p in params.items()}
        with torch.no_grad():
            grads = task.loss_and_grads(in_graph, batch).grads
        assert_same(grads, expected)
        assert not any(grad.requires_grad for grad in grads.values())

    def test_an_unused_parameter_has_a_zero_gradient(self, data):
        class Spare(MLP):
            def __init__(self):
                super().__init__((64, 10))
                self.spare = nn.Parameter(torch.ones(2))

        task = make(data, Spare)
        found = task.loss_and_grads(task.init_params(0), task.batches(0).next())
        assert torch.equal(found.grads["spare"], torch.zeros(2))

    def test_func_grad_and_vmap_agree_with_a_loop(self, task, batch):
        seeds = [task.init_params(seed) for seed in range(3)]
        stacked = {k: torch.stack([params[k] for params in seeds]) for k in seeds[0]}
        losses = torch.func.vmap(task.loss, in_dims=(0, None))(stacked, batch)
        grads = torch.func.vmap(torch.func.grad(task.loss), in_dims=(0, None))(
            stacked, batch
        )
        for index, params in enumerate(seeds):
            loss, expected, _ = task.loss_and_grads(params, batch)
            torch.testing.assert_close(losses[index], loss)
            for name in expected:
                torch.testing.assert_close(grads[name][index], expected[name])

    def test_autograd_passes_through_an_update(self, task, batch):
        params = {k: p.double() for k, p in task.init_params(0).items()}
        grads = task.loss_and_grads(params, batch).grads

        def loss_after(rate):
            return task.loss({k: params[k] - rate * grads[k] for k in params}, batch)

        rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss_after(rate), rate)
        with torch.no_grad():
            difference = (loss_after(rate + 1e-5) - loss_after(rate - 1e-5)) / 2e-5
        # Central differences are exact to 1e-10 / 1e-5 here.
        torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-9)

    def test_the_parameters_decide_the_precision(self, task, batch):
        params = {k: p.double() for k, p in task.init_params(0).items()}
        assert task.loss(params, batch).dtype == torch.float64

    @pytest.mark.parametrize("change", ["missing", "unknown"])
    def test_other_names_are_refused(self, task, batch, change):
        params = task.init_params(0)
        if change == "missing":
            del params["head.bias"]
        else:
            params["other.bias"] = torch.zeros(1)
        with pytest.raises(ValueError, match=r"as FunctionalTask\.init_params"):
            task.loss(params, batch)

    def test_dropout_is_on_in_training_and_off_in_evaluation(self, data):
        task = make(data, lambda: nn.Sequential(nn.Dropout(0.5), MLP((64, 10))))
        params, batch = task.init_params(0), task.batches(0).next()
        with torch.random.fork_rng():
            assert task.loss(params, batch) != task.loss(params, batch)
            first, second = (task.evaluate(params, "test") for _ in range(2))
        assert first == second


class TestBuffers:
    def test_training_is_that_of_a_loop_over_the_module(self, normed):
        """Running statistics included, bit for bit."""
        model, batches = normed.task.init_model(0), normed.batches(0)
        params, buffers = normed.init_params(0), normed.init_buffers(0)
        for _ in range(3):
            batch = batches.next()
            model.zero_grad()
            normed.task.loss(model, batch).backward()
            for param in model.parameters():
                param.data -= 0.1 * param.grad
            _, grads, buffers = normed.loss_and_grads(params, batch, buffers)
            params = {name: param - 0.1 * grads[name] for name, param in params.items()}
        assert_same({**params, **buffers}, dict(model.state_dict()))
        found = normed.evaluate(params, "test", buffers)
        assert found == normed.task.evaluate(model, "test")
        assert found != normed.evaluate(params, "test")  # the initial statistics

    def test_no_call_changes_what_it_is_given(self, normed):
        params, buffers = normed.init_params(0), normed.init_buffers(0)
        batch = normed.batches(0).next()
        normed.loss_and_grads(params, batch, buffers)
        normed.loss(params, batch)
        assert_same(buffers, normed.init_buffers(0))
        assert normed.loss(params, batch) == normed.loss(params, batch, buffers)

    def test_vmap_and_func_grad_pass_over_them(self, normed):
        seeds = [normed.init_params(seed) for seed in range(3)]
        params = {k: torch.stack([item[k] for item in seeds]) for k in seeds[0]}
        buffers = {
            name: torch.stack([item] * 3)
            for name, item in normed.init_buffers(0).items()
        }
        batch = normed.batches(0).next()
        function = torch.func.grad_and_value(normed.loss_and_buffers, has_aux=True)
        grads, (losses, after) = torch.func.vmap(function, in_dims=(0, None, 0))(
            params, batch, buffers
        )
        for lane in range(3):
            found = normed.loss_and_grads(seeds[lane], batch)
            torch.testing.assert_close(losses[lane], found.loss)
            for name, item in found.buffers.items():
                torch.testing.assert_close(after[name][lane], item)
            for name, item in found.grads.items():
                torch.testing.assert_close(grads[name][lane], item)


class TestUnits:
    """Other units change parameters and gradients, and no function."""

    @pytest.fixture
    def other(self, data):
        build = partial(ConvNet, 1, (3, 4))
        return make(data, build, unit_spread=4.0, unit_seed=3)

    def test_the_function_stays(self, task, other, batch):
        loss, grads, _ = task.loss_and_grads(task.init_params(0), batch)
        found, scaled, _ = other.loss_and_grads(other.init_params(0), batch)
        torch.testing.assert_close(found, loss)
        units = set()
        for name, param in task.init_params(0).items():
            unit = param / other.init_params(0)[name]
            torch.testing.assert_close(scaled[name], grads[name] * unit)
            assert 1 / 4 <= float(unit.flatten()[0]) <= 4
            units.add(round(float(unit.flatten()[0]), 4))
        assert len(units) == len(grads)

    def test_so_does_the_evaluation(self, task, other):
        found = other.evaluate(other.init_params(0), "test")
        expected = task.evaluate(task.init_params(0), "test")
        assert found == pytest.approx(expected, rel=1e-5)

    def test_the_law_can_fail(self, task, other, batch):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(
                other.loss(task.init_params(0), batch),
                task.loss(task.init_params(0), batch),
            )

    @pytest.mark.parametrize("spread", [0.9, float("inf"), float("nan")])
    def test_impossible_units_are_refused(self, task, spread):
        with pytest.raises(ValueError, match="Leave it out to train the network as"):
            FunctionalTask(task.task, unit_spread=spread)


class TestUnseenBatches:
    def test_they_are_of_the_validation_split(self):
        inputs = torch.arange(600.0)[:, None]
        data = Batch(inputs, inputs)
        task = FunctionalTask(
            Task(
                name="kept",
                build_model=lambda: nn.Linear(1, 1),
                batches=lambda seed: BatchSampler(data, 8, seed),
                criterion=nn.functional.mse_loss,
                held_out={
                    "validation": [Batch(-inputs, inputs), Batch(-inputs, inputs)]
                },
            )
        )
        first, second = task.unseen_batches(0, 5)
        assert len(first.inputs) == len(second.targets) == 256
        assert (first.inputs <= 0).all()
        torch.testing.assert_close(-first.inputs, first.targets)
        again = task.unseen_batches(0, 1)
        assert torch.equal(again[0].inputs, first.inputs)
        assert not torch.equal(task.unseen_batches(1, 1)[0].inputs, first.inputs)

    def test_without_one_they_are_training_batches_of_another_seed(self):
        data = Batch(torch.arange(600.0)[:, None], torch.zeros(600, 1))
        task = FunctionalTask(
            Task(
                name="all",
                build_model=lambda: nn.Linear(1, 1),
                batches=lambda seed: BatchSampler(data, 8, seed),
                criterion=nn.functional.mse_loss,
            )
        )
        (found,) = task.unseen_batches(3, 1)
        assert torch.equal(found.inputs, task.batches(4).next().inputs)
