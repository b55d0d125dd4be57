import dataclasses

import pytest
import torch

from optimizees.data import layouts
from optimizees.data.idx import write_idx


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Hide the cache and the settings of the person who runs the tests."""
    monkeypatch.delenv("L2O_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def no_system_data(monkeypatch):
    """Hide what a system package may have installed."""
    hidden = dataclasses.replace(layouts.LAYOUTS["fashion-mnist"], system=())
    monkeypatch.setitem(layouts.LAYOUTS, "fashion-mnist", hidden)


@pytest.fixture
def write_fashion():
    """Write a small FashionMNIST: image i has only pixels i % 256, label i % 10."""

    def write(directory, num_train=5_010, num_test=20):
        directory.mkdir(parents=True, exist_ok=True)
        for part, count in (("train", num_train), ("t10k", num_test)):
            index = torch.arange(count)
            images = (index % 256).to(torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
            labels = (index % 10).to(torch.uint8)
            write_idx(directory / f"{part}-images-idx3-ubyte.gz", images)
            write_idx(directory / f"{part}-labels-idx1-ubyte.gz", labels)
        return directory

    return write


@pytest.fixture
def write_cifar():
    """Write a small CIFAR-10 in the official layout, planes of equal pixels."""

    def write(directory, rows_per_file=1_002):
        directory.mkdir(parents=True, exist_ok=True)
        names = [f"data_batch_{index}.bin" for index in range(1, 6)]
        for number, name in enumerate([*names, "test_batch.bin"]):
            rows = torch.empty(rows_per_file, 3_073, dtype=torch.uint8)
            rows[:, 0] = torch.arange(rows_per_file) % 10
            for plane, value in enumerate((number, 100 + number, 200 + number)):
                rows[:, 1 + 1024 * plane : 1 + 1024 * (plane + 1)] = value
            rows.numpy().tofile(directory / name)
        return directory

    return write
