import gzip
import inspect
from pathlib import Path

import pytest
import torch

from optimizees.data import fashion_mnist
from optimizees.data.fashion_mnist import MEAN, STD, load_fashion_mnist
from optimizees.data.idx import read_idx, write_idx
from optimizees.data.layouts import locate

SPLITS = ("train", "validation", "train+validation", "test")


@pytest.mark.parametrize(
    ("split", "count", "noun"),
    [
        ("train", 9_000, "training"),
        ("validation", 1_000, "validation"),
        ("train+validation", 10_000, "training"),
        ("test", 2_000, "test"),
    ],
)
def test_the_embedded_splits_are_balanced(split, count, noun):
    data = load_fashion_mnist(split, source="embedded")
    assert data.images.shape == (count, 1, 28, 28)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert data.labels.bincount().tolist() == [count // 10] * 10
    assert data.source == f"FashionMNIST (embedded subset, {count:,} {noun} images)"


def test_train_and_validation_join_to_all_training_images():
    parts = [load_fashion_mnist(split, source="embedded") for split in SPLITS]
    train, validation, both, _ = parts
    joined = torch.cat([train.images, validation.images])
    assert torch.equal(joined, both.images)


def test_pixels_are_normalised_with_the_constants_of_mnist():
    images = load_fashion_mnist("test", source="embedded").images[::10]
    pixels = (images * STD[0] + MEAN[0]) * 255
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
    assert pixels.round().min() == 0
    assert pixels.round().max() == 255
    assert (MEAN, STD) == ((0.1307,), (0.3081,))


def test_the_embedded_subset_is_small_and_its_licence_lies_beside_it():
    folder = Path(fashion_mnist.__file__).with_name("embedded")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 7_000_000
    assert "MIT" in (folder / "README.md").read_text()


def test_full_data_is_split_after_the_first_part(tmp_path, write_fashion):
    root = write_fashion(tmp_path / "data")
    lengths = [len(load_fashion_mnist(split, root=root)) for split in SPLITS]
    assert lengths == [10, 5_000, 5_010, 20]
    validation = load_fashion_mnist("validation", root=root)
    assert validation.labels[0] == 0
    pixels = (validation.images[:, 0, 0, 0] * STD[0] + MEAN[0]) * 255
    assert pixels.round()[:3].tolist() == [10, 11, 12]
    assert validation.source == (
        f"FashionMNIST (full, 5,000 validation images, from {root})"
    )


def test_auto_takes_the_full_data_where_there_is_some(
    tmp_path, monkeypatch, write_fashion, no_system_data
):
    assert len(load_fashion_mnist("test")) == 2_000
    monkeypatch.setenv("L2O_DATA", str(write_fashion(tmp_path / "data")))
    assert len(load_fashion_mnist("test")) == 20
    assert len(load_fashion_mnist("test", source="full")) == 20
    assert len(load_fashion_mnist("test", source="embedded")) == 2_000


def test_full_data_that_is_absent_says_how_to_get_it(tmp_path, no_system_data):
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion"):
        load_fashion_mnist("train", source="full")
    with pytest.raises(FileNotFoundError, match="l2o data download fashion-mnist"):
        load_fashion_mnist("train", root=tmp_path)


def test_a_root_and_the_embedded_source_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="Leave one of them out"):
        load_fashion_mnist("train", root=tmp_path, source="embedded")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"split": "valid"}, "Pass one of train, validation, test"),
        ({"split": "test", "source": "web"}, "Pass one of auto, full, embedded"),
    ],
)
def test_unknown_choices_list_the_known_ones(arguments, advice):
    with pytest.raises(ValueError, match=advice):
        # Unwrapped, since the type hook would refuse them first.
        inspect.unwrap(load_fashion_mnist)(**arguments)


def test_too_few_images_to_hold_some_out(tmp_path, write_fashion):
    root = write_fashion(tmp_path / "data", num_train=5_000)
    with pytest.raises(ValueError, match=r"Pass split='train\+validation'"):
        load_fashion_mnist("train", root=root)


def test_images_and_labels_of_different_data_are_refused(tmp_path, write_fashion):
    root = write_fashion(tmp_path / "data")
    labels = torch.zeros(7, dtype=torch.uint8)
    write_idx(root / "t10k-labels-idx1-ubyte.gz", labels)
    with pytest.raises(ValueError, match=r"do not belong together.*Download both"):
        load_fashion_mnist("test", root=root)


def test_a_damaged_file_is_not_replaced_by_the_embedded_subset(
    tmp_path, monkeypatch, write_fashion
):
    root = write_fashion(tmp_path / "data")
    monkeypatch.setenv("L2O_DATA", str(root))
    (root / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"<html></html>"))
    with pytest.raises(ValueError, match="it is a packed HTML page"):
        load_fashion_mnist("test")


@pytest.mark.parametrize(
    ("embedded", "full"),
    [
        (("train", slice(0, 9_000)), ("train", slice(0, 55_000))),
        (("train", slice(9_000, None)), ("train", slice(55_000, None))),
        (("t10k", slice(None)), ("t10k", slice(None))),
    ],
    ids=["train", "validation", "test"],
)
def test_every_embedded_image_is_a_real_one_of_the_same_split(embedded, full):
    directory = locate("fashion-mnist")
    if directory is None:
        pytest.skip("the full FashionMNIST is not on this machine")
    folder = Path(fashion_mnist.__file__).with_name("embedded")

    def read(base, part, chosen):
        images = read_idx(base / f"{part}-images-idx3-ubyte.gz")[chosen]
        labels = read_idx(base / f"{part}-labels-idx1-ubyte.gz")[chosen]
        pairs = zip(images.numpy(), labels.tolist(), strict=True)
        return [(image.tobytes(), label) for image, label in pairs]

    found = read(folder, *embedded)
    assert len(set(found)) == len(found)
    assert set(found) <= set(read(directory, *full))
