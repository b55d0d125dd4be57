import hashlib
import inspect

import pytest
import torch

from optimizees.data import cifar
from optimizees.data.cifar import MEAN, STD, load_cifar10


@pytest.mark.parametrize(
    ("split", "count", "noun"),
    [
        ("train", 10, "training"),
        ("validation", 5_000, "validation"),
        ("train+validation", 5_010, "training"),
        ("test", 1_002, "test"),
    ],
)
def test_the_splits_of_the_official_layout(tmp_path, write_cifar, split, count, noun):
    root = write_cifar(tmp_path / "cifar-10-batches-bin")
    data = load_cifar10(split, root=tmp_path)
    assert data.images.shape == (count, 3, 32, 32)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert f"{count:,} {noun} images, from {root})" in data.source


def test_planes_are_red_green_blue_and_normalised_each(tmp_path, write_cifar):
    root = write_cifar(tmp_path, rows_per_file=4)
    images = load_cifar10("train+validation", root=root).images
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    pixels = ((images * std + mean) * 255).round()
    for number in range(5):
        file = pixels[4 * number : 4 * number + 4]
        for plane, value in enumerate((number, 100 + number, 200 + number)):
            assert (file[:, plane] == value).all()


def test_validation_is_the_end_of_the_training_images(tmp_path, write_cifar):
    root = write_cifar(tmp_path)
    both = load_cifar10("train+validation", root=root)
    train = load_cifar10("train", root=root)
    assert train.labels.tolist() == list(range(10))
    validation = load_cifar10("validation", root=root)
    assert torch.equal(both.labels, torch.cat([train.labels, validation.labels]))
    assert torch.equal(both.images[-1], validation.images[-1])


def test_the_source_says_whether_the_pixels_are_official(
    tmp_path, write_cifar, monkeypatch
):
    root = write_cifar(tmp_path, rows_per_file=2)
    differing = "CIFAR-10 (pixels differ from the official files, e.g. JPEG copies"
    assert load_cifar10("test", root=root).source.startswith(differing)
    raw = (root / "test_batch.bin").read_bytes()
    checksum = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(cifar.MD5, "test_batch.bin", checksum)
    official = load_cifar10("test", root=root).source
    assert official == f"CIFAR-10 (official files, 2 test images, from {root})"
    (root / "JPEG_COPIES").touch()
    assert load_cifar10("test", root=root).source.startswith(differing)


def test_it_is_found_below_the_variable(tmp_path, write_cifar, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-bin", rows_per_file=2)
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    assert len(load_cifar10("test")) == 2


def test_absent_data_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="l2o data download cifar-10"):
        load_cifar10("train")
    with pytest.raises(FileNotFoundError, match="l2o data download cifar-10"):
        load_cifar10("train", root=tmp_path)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (bytes(3_073 + 3_000), r"truncated or not the binary version: .*Download it"),
        (b"<!DOCTYPE html><html>404</html>", r"is an HTML page.*Download it again"),
        (bytes([10]) + bytes(3_072), "the class 10, as CIFAR-100 or a damaged file"),
    ],
    ids=["truncated", "html", "label"],
)
def test_a_file_of_another_layout_is_refused(tmp_path, write_cifar, content, advice):
    root = write_cifar(tmp_path, rows_per_file=2)
    (root / "data_batch_4.bin").write_bytes(content)
    with pytest.raises(ValueError, match=advice):
        load_cifar10("train+validation", root=root)


def test_an_empty_file_does_not_count(tmp_path, write_cifar):
    root = write_cifar(tmp_path, rows_per_file=2)
    (root / "data_batch_4.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_4\.bin \(empty\)"):
        load_cifar10("train+validation", root=root)


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="Pass one of train, validation, test"):
        # Unwrapped, since the type hook would refuse it first.
        inspect.unwrap(load_cifar10)("valid", root=tmp_path)


def test_too_few_images_to_hold_some_out(tmp_path, write_cifar):
    root = write_cifar(tmp_path, rows_per_file=2)
    with pytest.raises(ValueError, match=r"Pass split='train\+validation'"):
        load_cifar10("validation", root=root)
