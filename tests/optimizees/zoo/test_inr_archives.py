import json

import pytest
import torch

from optimizees.siren import Siren, draw_siren
from optimizees.zoo.inr_archives import read_archive


def drawn(seed):
    return draw_siren(generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def mnist(tmp_path):
    """Write 26 training and 3 test networks as the MNIST archive has them."""
    for part, count in (("training", 26), ("testing", 3)):
        for index in range(count):
            name = f"mnist_png_{part}_{index % 10}_{index}"
            folder = tmp_path / "mnist-inrs" / name / "checkpoints"
            folder.mkdir(parents=True)
            torch.save(drawn(index), folder / f"{name}_model_final.pth")
    return tmp_path


@pytest.fixture
def fashion(tmp_path):
    """Write 13 training and 2 test networks as the FashionMNIST archive has them."""
    for part, count in (("train", 13), ("test", 2)):
        folder = tmp_path / "fmnist_inrs" / part
        folder.mkdir(parents=True)
        for index in range(count):
            torch.save(
                {**drawn(index), "label": index % 10}, folder / f"model_{index}.pth"
            )
    return tmp_path


def assert_networks(found, indices):
    assert found.indices.tolist() == indices
    assert found.labels.tolist() == [index % 10 for index in indices]
    assert list(found.networks) == list(Siren().state_dict())
    for place, index in enumerate(indices):
        for name, weight in drawn(index).items():
            assert torch.equal(found.networks[name][place], weight)


def test_mnist(mnist):
    assert_networks(read_archive("mnist-inrs", mnist, "train"), list(range(24)))
    assert_networks(read_archive("mnist-inrs", mnist, "validation"), [24, 25])
    found = read_archive("mnist-inrs", mnist / "mnist-inrs", "test")
    assert_networks(found, [0, 1, 2])
    assert found.source == "mnist-inrs of Navon et al. (3 test networks)"
    assert found.images is None


def test_fashion(fashion):
    assert_networks(read_archive("fmnist-inrs", fashion, "train"), list(range(12)))
    assert_networks(read_archive("fmnist-inrs", fashion, "validation"), [12])
    assert_networks(read_archive("fmnist-inrs", fashion, "test"), [0, 1])


def test_only_the_first_ones(mnist):
    assert_networks(read_archive("mnist-inrs", mnist, "train", limit=3), [0, 1, 2])


def test_the_published_splits_of_mnist_count(mnist):
    listed = {
        "train": {"path": _paths("training", range(0, 26, 2))},
        "val": {"path": _paths("training", range(1, 26, 2))},
        "test": {"path": _paths("testing", [0, 2])},
    }
    (mnist / "mnist_splits.json").write_text(json.dumps(listed))
    found = read_archive("mnist-inrs", mnist, "validation")
    assert_networks(found, list(range(1, 26, 2)))
    assert_networks(read_archive("mnist-inrs", mnist, "test"), [0, 2])


def _paths(part, indices):
    names = [f"mnist_png_{part}_{index % 10}_{index}" for index in indices]
    return [f"dataset/{name}/checkpoints/{name}_model_final.pth" for name in names]


def test_the_published_splits_of_fashion_count(fashion, tmp_path):
    splits = tmp_path / "fmnist_inrs/splits.json"
    listed = {"path": ["fmnist_inrs/train/model_3.pth", "train/model_7.pth"]}
    splits.write_text(json.dumps({"val": listed}))
    assert_networks(read_archive("fmnist-inrs", fashion, "validation"), [3, 7])
    with pytest.raises(ValueError, match="Pass another file"):
        read_archive("fmnist-inrs", fashion, "train")


def test_networks_that_the_splits_name_must_be_there(fashion, tmp_path):
    splits = tmp_path / "other.json"
    splits.write_text(json.dumps({"test": {"path": ["test/model_9.pth"]}}))
    with pytest.raises(ValueError, match="Unpack the archive"):
        read_archive("fmnist-inrs", fashion, "test", splits=splits)


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="DWSNets links to, and pass its"):
        read_archive("mnist-inrs", tmp_path, "test")


def without_label():
    return drawn(0)


def other_widths():
    return {**draw_siren((2, 16, 16, 1)), "label": 1}


def pickled_code():
    return {**drawn(0), "label": print}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (without_label, "it holds no label"),
        (other_widths, r"seq.0.weight is \(16, 2\) instead of \(32, 2\)"),
        (pickled_code, "it cannot be read"),
        (lambda: 3, "it holds a int"),
    ],
)
def test_a_file_of_something_else(fashion, content, problem):
    torch.save(content(), fashion / "fmnist_inrs/test/model_1.pth")
    with pytest.raises(ValueError, match=rf"model_1.pth: {problem}(.|\n)*Unpack"):
        read_archive("fmnist-inrs", fashion, "test")
