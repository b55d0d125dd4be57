from typing import get_args

import pytest
import torch

from benchmarks import workloads
from benchmarks.workloads import (
    HeldOutTask,
    PaperTask,
    Setting,
    describe,
    load_workload,
    settle,
)
from optimizees import ImageData

NAMES = get_args(PaperTask) + get_args(HeldOutTask)
PARAMETERS = {
    "fashion-cnn": 14_378,
    "cifar-cnn": 56_970,
    "digits-mlp": 109_386,
    "fashion-autoencoder": 209_968,
    "text-gpt": 160_768,
    "cifar-resnet": 77_850,
    "cifar-vit": 90_922,
}


def make_images(*shape):
    def load(split, source="full"):
        pixels = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0))
        return ImageData(pixels, torch.arange(40) % 10, source=f"a set, {split}")

    return load


@pytest.fixture
def small_data(monkeypatch):
    monkeypatch.setattr(workloads, "load_fashion_mnist", make_images(1, 28, 28))
    monkeypatch.setattr(workloads, "load_digits", make_images(1, 28, 28))
    monkeypatch.setattr(workloads, "load_cifar10", make_images(3, 32, 32))


def load(name):
    return load_workload(
        Setting(
            name=name,
            train_split="train",
            held_out_split="validation",
            batch_size=4,
            data="embedded",
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_workload_trains_and_is_decided_by_its_seed(name, small_data):
    workload = load(name)
    before = torch.get_rng_state()
    model, again = workload.init_model(3), workload.init_model(3)
    assert torch.equal(torch.get_rng_state(), before)
    num_params = sum(param.numel() for param in model.parameters())
    # The manual's characters, and with them GPT's table, depend on Python's version.
    assert num_params == PARAMETERS[name] or name == "text-gpt"
    batch, same = (workload.batches(5).next() for _ in range(2))
    assert torch.equal(batch.inputs, same.inputs)
    assert len(batch.targets) == 4
    loss = workload.loss(model, batch)
    loss.backward()
    assert loss.item() == workload.loss(again, same).item()
    assert all(param.grad is not None for param in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_has_a_name_in_rows(name):
    assert settle(name, "embedded")


def test_fashion_is_told_by_its_copy_and_text_by_its_python():
    assert settle("fashion-autoencoder", "full") == "full"
    assert settle("cifar-cnn", "embedded") == "full"
    assert settle("text-gpt", "auto").startswith("Python 3.")


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
def test_a_source_is_described_without_its_place(images, source, expected):
    train = ImageData(images.images, images.labels, source=source)
    assert describe(train, images.subset(0, 5)) == (
        f"{expected}, 60 images to train on and 5 held out"
    )
