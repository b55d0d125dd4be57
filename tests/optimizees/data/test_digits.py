import inspect

import pytest
import torch

from optimizees.data.digits import load_digits
from optimizees.data.idx import write_idx


@pytest.fixture
def write_digits(tmp_path):
    """Write digits of equal pixels: image i has i % 256 and the label i % 10."""

    def write(count=10_000):
        index = torch.arange(count)
        pixels = (index % 256).to(torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
        labels = (index % 10).to(torch.uint8)
        write_idx(tmp_path / "mnist-t10k-images-idx3-ubyte.gz", pixels)
        write_idx(tmp_path / "mnist-t10k-labels-idx1-ubyte.gz", labels)
        return tmp_path

    return write


def test_the_parts_follow_each_other(write_digits):
    root = write_digits()
    for split, start, count in (
        ("train", 0, 8_000),
        ("validation", 8_000, 1_000),
        ("train+validation", 0, 9_000),
        ("test", 9_000, 1_000),
    ):
        data = load_digits(split, root=root)
        assert len(data) == count
        pixel = (start % 256) / 255
        assert data.images[0, 0, 0, 0].item() == pytest.approx(
            (pixel - 0.1307) / 0.3081, rel=1e-5
        )
        assert f"{count:,}" in data.source


def test_they_are_found_below_the_variable(write_digits, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(write_digits()))
    assert len(load_digits("test")) == 1_000


def test_without_them_there_is_advice():
    with pytest.raises(FileNotFoundError, match="l2o data download mnist-test"):
        load_digits("test")


def test_only_these_parts_are_known(write_digits):
    with pytest.raises(ValueError, match="Pass one of train, validation"):
        # Unwrapped, since the type hook would refuse it first.
        inspect.unwrap(load_digits)("all", root=write_digits())


def test_there_must_be_ten_thousand(write_digits):
    with pytest.raises(ValueError, match="l2o data download mnist-test"):
        load_digits("test", root=write_digits(20))
