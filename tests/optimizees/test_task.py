from functools import partial

import pytest
import torch
from torch import nn

from optimizees import MLP, ConvNet, Task, build_task, load_fashion_mnist
from optimizees.task import BatchSampler


@pytest.fixture
def task(data):
    return Task("small", partial(ConvNet, 1, (3, 4)), data, batch_size=6)


@pytest.fixture
def batch(task):
    return task.batches(seed=1).next()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


class TestInit:
    def test_the_seed_decides_every_value(self, task):
        assert_same(task.init_params(seed=3), task.init_params(seed=3))
        other = task.init_params(seed=4)
        assert not torch.equal(
            task.init_params(seed=3)["head.weight"], other["head.weight"]
        )

    def test_it_is_the_default_init_of_pytorch(self, task):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = task.build_model()
        assert_same(task.init_params(seed=3), dict(model.state_dict()))

    def test_the_model_has_the_same_values(self, task):
        assert_same(task.init_params(seed=3), dict(task.init_model(3).state_dict()))

    def test_the_global_generator_stays_as_it_was(self, task, batch):
        before = torch.get_rng_state()
        params = task.init_params(seed=3)
        task.loss_and_grads(params, batch)
        task.evaluate(params, task.data)
        task.batches(seed=0).next()
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_values_are_fresh_and_outside_the_graph(self, task):
        params = task.init_params(seed=3)
        assert not any(param.requires_grad for param in params.values())
        params["head.weight"].zero_()
        assert task.init_params(seed=3)["head.weight"].any()


class TestLoss:
    def test_it_is_the_cross_entropy_of_the_network(self, task, batch):
        model = task.init_model(seed=0)
        expected = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        torch.testing.assert_close(task.loss(task.init_params(0), batch), expected)

    def test_gradients_agree_with_backward(self, task, batch):
        model = task.init_model(seed=0)
        nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        loss, grads = task.loss_and_grads(task.init_params(0), batch)
        assert not loss.requires_grad
        for name, param in model.named_parameters():
            torch.testing.assert_close(grads[name], param.grad)

    def test_gradients_come_under_no_grad_and_for_parameters_in_a_graph(
        self, task, batch
    ):
        params = task.init_params(0)
        _, expected = task.loss_and_grads(params, batch)
        in_graph = {name: p.clone().requires_grad_() * 1 for name, p in params.items()}
        with torch.no_grad():
            _, grads = task.loss_and_grads(in_graph, batch)
        assert_same(grads, expected)
        assert not any(grad.requires_grad for grad in grads.values())

    def test_an_unused_parameter_has_a_zero_gradient(self, data):
        class Spare(MLP):
            def __init__(self):
                super().__init__((64, 10))
                self.spare = nn.Parameter(torch.ones(2))

        task = Task("spare", Spare, data, batch_size=4)
        _, grads = task.loss_and_grads(task.init_params(0), task.batches(0).next())
        assert torch.equal(grads["spare"], torch.zeros(2))

    def test_func_grad_and_vmap_agree_with_a_loop(self, task, batch):
        seeds = [task.init_params(seed) for seed in range(3)]
        stacked = {k: torch.stack([params[k] for params in seeds]) for k in seeds[0]}
        losses = torch.func.vmap(task.loss, in_dims=(0, None))(stacked, batch)
        grads = torch.func.vmap(torch.func.grad(task.loss), in_dims=(0, None))(
            stacked, batch
        )
        for index, params in enumerate(seeds):
            loss, expected = task.loss_and_grads(params, batch)
            torch.testing.assert_close(losses[index], loss)
            for name in expected:
                torch.testing.assert_close(grads[name][index], expected[name])

    def test_autograd_passes_through_an_update(self, task, batch):
        params = {k: p.double() for k, p in task.init_params(0).items()}
        _, grads = task.loss_and_grads(params, batch)

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
        with pytest.raises(ValueError, match=r"Pass params as Task\.init_params"):
            task.loss(params, batch)

    def test_running_statistics_are_refused(self, data):
        def build():
            return nn.Sequential(nn.BatchNorm2d(1), MLP((64, 10)))

        with pytest.raises(ValueError, match="track_running_stats=False"):
            Task("norm", build, data, batch_size=4)


class TestEvaluate:
    def test_it_averages_over_the_images_whatever_the_batch_size(self, task):
        params = task.init_params(0)
        model = task.init_model(0)
        with torch.no_grad():
            logits = model(task.data.images)
        labels = task.data.labels
        loss = nn.functional.cross_entropy(logits, labels).item()
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        for batch_size in (7, 40, 1000):
            found = task.evaluate(params, task.data, batch_size)
            assert found.loss == pytest.approx(loss, rel=1e-5)
            assert found.accuracy == pytest.approx(accuracy)

    def test_batches_of_nothing_are_refused(self, task):
        with pytest.raises(ValueError, match="Leave it out, or pass as many images"):
            task.evaluate(task.init_params(0), task.data, batch_size=0)

    def test_dropout_is_off_there_and_on_in_training(self, data):
        def build():
            return nn.Sequential(nn.Dropout(0.5), MLP((64, 10)))

        task = Task("dropout", build, data, batch_size=40)
        params, batch = task.init_params(0), task.batches(0).next()
        with torch.random.fork_rng():
            assert task.loss(params, batch) != task.loss(params, batch)
            first, second = (task.evaluate(params, data) for _ in range(2))
            assert task.loss(params, batch) != task.loss(params, batch)
        assert first == second


class TestBatchSampler:
    def test_an_epoch_visits_every_image_once(self, data):
        sampler = BatchSampler(data, batch_size=10, seed=0)
        seen = torch.cat([sampler.next().inputs for _ in range(4)])
        order = {tuple(image.flatten().tolist()) for image in seen}
        assert len(order) == len(data)

    def test_images_keep_their_labels(self, data):
        batch = BatchSampler(data, batch_size=10, seed=0).next()
        for image, label in zip(batch.inputs, batch.targets, strict=True):
            index = (data.images == image).flatten(1).all(dim=1).nonzero().item()
            assert data.labels[index] == label

    def test_every_epoch_has_another_order_and_drops_the_rest(self, data):
        sampler = BatchSampler(data, batch_size=15, seed=0)
        first, _, second = (sampler.next() for _ in range(3))
        assert sampler.state_dict()["position"] == 15
        assert not torch.equal(first.inputs, second.inputs)

    def test_the_seed_decides_the_order(self, data):
        same = [BatchSampler(data, 10, seed=5).next().targets for _ in range(2)]
        assert torch.equal(*same)
        assert not torch.equal(same[0], BatchSampler(data, 10, seed=6).next().targets)

    @pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
    def test_resume_is_exact(self, data, steps):
        sampler = BatchSampler(data, batch_size=15, seed=0)
        for _ in range(steps):
            sampler.next()
        state = sampler.state_dict()
        expected = [sampler.next() for _ in range(5)]
        resumed = BatchSampler(data, batch_size=15, seed=99)
        resumed.load_state_dict(state)
        for batch in expected:
            again = resumed.next()
            assert torch.equal(again.inputs, batch.inputs)
            assert torch.equal(again.targets, batch.targets)

    def test_the_state_survives_a_safe_save(self, data, tmp_path):
        sampler = BatchSampler(data, batch_size=15, seed=0)
        torch.save(sampler.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert all(isinstance(value, torch.Tensor | int) for value in state.values())
        expected = sampler.next()
        sampler.load_state_dict(state)
        assert torch.equal(sampler.next().inputs, expected.inputs)

    def test_the_state_of_another_sampler_is_refused(self, data):
        sampler = BatchSampler(data, batch_size=15, seed=0)
        other_data = BatchSampler(data.subset(0, 20), batch_size=15, seed=0)
        with pytest.raises(ValueError, match="with the data of the interrupted run"):
            sampler.load_state_dict(other_data.state_dict())
        other_size = BatchSampler(data, batch_size=10, seed=0)
        with pytest.raises(ValueError, match="the batch size of the interrupted run"):
            sampler.load_state_dict(other_size.state_dict())

    @pytest.mark.parametrize("batch_size", [0, 41])
    def test_impossible_batches_are_refused(self, data, batch_size):
        with pytest.raises(ValueError, match="Pass a smaller batch or more data"):
            BatchSampler(data, batch_size, seed=0)
        with pytest.raises(ValueError, match="Pass a smaller batch or more data"):
            Task("small", partial(ConvNet, 1, (3,)), data, batch_size)

    @pytest.mark.parametrize("changes", [{"init_scale": 0.0}, {"unit_spread": 0.9}])
    def test_impossible_scales_are_refused(self, data, changes):
        with pytest.raises(ValueError, match="Leave them out to train the network as"):
            Task("small", partial(ConvNet, 1, (3,)), data, 8, **changes)


@pytest.mark.parametrize(
    "build_optimizer",
    [
        pytest.param(partial(torch.optim.SGD, lr=0.1, momentum=0.9), id="sgd"),
        pytest.param(partial(torch.optim.Adam, lr=3e-3), id="adam"),
    ],
)
def test_a_hundred_steps_on_the_embedded_images_lower_the_loss(build_optimizer):
    task = build_task(
        "fashion-cnn", load_fashion_mnist("train", source="embedded"), batch_size=32
    )
    held_out = load_fashion_mnist("validation", source="embedded").subset(0, 500)
    model = task.init_model(seed=0)
    params = dict(model.named_parameters())
    before = task.evaluate(params, held_out)
    optimizer, batches = build_optimizer(model.parameters()), task.batches(seed=0)
    for _ in range(100):
        _, grads = task.loss_and_grads(params, batches.next())
        for name, param in params.items():
            param.grad = grads[name]
        optimizer.step()
    after = task.evaluate(params, held_out)
    assert before.loss == pytest.approx(2.303, abs=0.05)  # ln 10: it knows nothing
    assert after.loss < 0.75 * before.loss
    assert after.accuracy > before.accuracy + 0.2
