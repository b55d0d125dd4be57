from typing import get_args

import pytest
import torch

from optimizees import FunctionalTask, ImageData, TaskLoader, load_task, task_loader
from optimizees.image_tasks import describe
from optimizees.named_tasks import TASKS, HeldOutTask, PaperTask, TextTask, budget_of
from optimizees.task_loader import data_identity

PARAMETERS = {
    "fashion-cnn": 14_378,
    "fashion-mlp": 784 * 32 + 32 + 32 * 10 + 10,
    "cifar-cnn": 56_970,
    "digits-mlp": 109_386,
    "fashion-autoencoder": 209_968,
    "text-gpt": 160_768,
    "cifar-resnet": 77_850,
    "cifar-vit": 90_922,
    "cifar-group-norm": 24_458,
    "text-lstm": 0,
    "photo-siren": 4_547,
    "digits-graph": 9_546,
    "diabetes-mlp": 4_929,
}


def make_images(*shape):
    def load(split, source="full"):
        pixels = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0))
        return ImageData(pixels, torch.arange(40) % 10, source=f"a set, {split}")

    return load


@pytest.fixture
def small_data(monkeypatch):
    monkeypatch.setattr(task_loader, "load_fashion_mnist", make_images(1, 28, 28))
    monkeypatch.setattr(task_loader, "load_digits", make_images(1, 28, 28))
    monkeypatch.setattr(task_loader, "load_cifar10", make_images(3, 32, 32))


def test_every_name_has_a_row():
    names = {*get_args(PaperTask), *get_args(HeldOutTask), "fashion-mlp"}
    assert names == set(PARAMETERS)
    assert names == set(TASKS)
    assert all(budget_of(name).steps >= budget_of(name).evaluations for name in names)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_task_trains_and_is_decided_by_its_seed(name, small_data):
    task = load_task(name, batch_size=4, data="embedded")
    model, again = task.init_model(3), task.init_model(3)
    num_params = sum(param.numel() for param in model.parameters())
    # The manual's characters, and with them GPT's table, depend on Python's version.
    assert num_params == PARAMETERS[name] or isinstance(TASKS[name], TextTask)
    batch, same = (task.batches(5).next() for _ in range(2))
    assert torch.equal(batch.inputs, same.inputs)
    assert len(batch.targets) == 4
    loss = task.loss(model, batch)
    loss.backward()
    assert loss.item() == task.loss(again, same).item()
    assert all(param.grad is not None for param in model.parameters())
    functional = FunctionalTask(task)
    found = functional.loss_and_grads(functional.init_params(3), batch)
    assert found.loss.item() == loss.item()
    for key, param in model.named_parameters():
        assert torch.equal(found.grads[key], param.grad)


@pytest.mark.parametrize("name", PARAMETERS)
def test_its_batches_resume(name, small_data):
    task = load_task(name, batch_size=16, data="embedded")
    whole, resumed = task.batches(0), task.batches(1)
    for _ in range(3):
        whole.next()
    resumed.load_state_dict(whole.state_dict())
    for _ in range(3):
        assert torch.equal(whole.next().inputs, resumed.next().inputs)


def test_a_split_is_read_once(monkeypatch):
    calls = []

    def load(split, source):
        calls.append(split)
        return make_images(1, 28, 28)(split)

    monkeypatch.setattr(task_loader, "load_fashion_mnist", load)
    loader = TaskLoader(data="embedded")
    small = loader.load("fashion-cnn", batch_size=4, image_size=7)
    loader.load("fashion-mlp", batch_size=8)
    assert sorted(calls) == ["train", "validation"]
    assert small.batches(0).next().inputs.shape == (4, 1, 7, 7)
    assert set(small.held_out) == {"validation"}


def test_a_size_that_does_not_fit_is_refused(small_data):
    with pytest.raises(ValueError, match="cifar-cnn, cifar-group-norm only"):
        load_task("text-gpt", image_size=14)
    with pytest.raises(ValueError, match="cifar-cnn, cifar-group-norm only"):
        load_task("cifar-vit", image_size=16)
    with pytest.raises(ValueError, match="Pass a divisor"):
        load_task("fashion-cnn", image_size=9, batch_size=4)


def test_data_is_told_by_its_copy_and_text_by_its_python():
    assert data_identity("fashion-autoencoder", "full") == "full"
    assert data_identity("cifar-cnn", "embedded") == "full"
    assert data_identity("photo-siren", "auto") == "full"
    assert data_identity("text-gpt", "auto").startswith("Python 3.")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("FashionMNIST (full, 9 training images, from /a)", "FashionMNIST (full)"),
        (
            "CIFAR-10 (differ, e.g. JPEG copies, 50,000 training images, from b)",
            "CIFAR-10 (differ, e.g. JPEG copies)",
        ),
        ("digits of a set (8,000 training images, from c)", "digits of a set"),
        ("random images", "random images"),
    ],
)
def test_a_source_is_described_without_its_place(data, source, expected):
    train = ImageData(data.images, data.labels, source=source)
    assert describe(train, train.subset(0, 5)) == (
        f"{expected}, 40 images to train on and 5 held out"
    )
    assert describe(train, None) == f"{expected}, 40 images to train on"
