import pytest
import torch

from optimizees.data.images import ImageData
from optimizees.families import build_task


def make_data(channels, size):
    images = torch.randn(8, channels, size, size)
    return ImageData(images, torch.arange(8), source="random images")


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("fashion-cnn", make_data(1, 28), 14_378),
        ("fashion-mlp", make_data(1, 28), 784 * 32 + 32 + 32 * 10 + 10),
        ("fashion-mlp", make_data(1, 7), 49 * 32 + 32 + 32 * 10 + 10),
        ("cifar-cnn", make_data(3, 32), 56_970),
    ],
)
def test_each_name_builds_a_task_that_fits_its_data(name, data, expected):
    task = build_task(name, data, batch_size=4)
    params = task.init_params(seed=0)
    assert task.name == name
    assert sum(param.numel() for param in params.values()) == expected
    assert task.loss(params, task.batches(seed=0).next()).isfinite()


def test_data_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="Pass the data that the task is named for"):
        build_task("cifar-cnn", make_data(1, 28), batch_size=4)
