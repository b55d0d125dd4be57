import pytest
import torch

from benchmarks import zoo_commands
from benchmarks.zoo_commands import pooled_images
from l2o.cli import main
from optimizees import ImageData, load_fashion_mnist
from optimizees.zoo.small_cnn_zoo import read_small_cnn_zoo
from optimizees.zoo.wild_park import describe_park, read_park


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    """FashionMNIST as it comes with the library, wherever the tests run."""
    monkeypatch.setattr(
        zoo_commands,
        "load_fashion_mnist",
        lambda split: load_fashion_mnist(split, source="embedded"),
    )


SMALL = (
    *("--images", "fashion-mnist", "--image-size", "14"),
    *("--num-train", "60", "--num-test", "50"),
)


def test_a_park_is_made_and_stays(tmp_path, capsys):
    command = ["data", "wild-park", "--dest", str(tmp_path), *SMALL]
    options = ["--networks", "2", "--park.epochs", "1", "1"]
    assert main([*command, *options]) == 0
    assert "2 of 2 networks to train on 60 images" in capsys.readouterr().out
    assert [run.index for run in read_park(tmp_path, "train")] == [0, 1]
    made = describe_park(tmp_path)
    assert made["image_shape"] == [1, 14, 14]
    assert "28 x 28 pixels pooled to 14 x 14" in made["train"]["source"]
    assert main([*command, *options]) == 0
    assert "0 of 2 networks" in capsys.readouterr().out


def test_a_zoo_is_made(tmp_path, capsys):
    command = ["data", "cnn-zoo", "--dest", str(tmp_path), *SMALL]
    options = [
        "--networks",
        "6",
        "--zoo.checkpoints",
        "0",
        "1",
        "--zoo.batch-size",
        "20",
    ]
    assert main([*command, *options]) == 0
    assert "6 of 6 networks" in capsys.readouterr().out
    assert len(read_small_cnn_zoo(tmp_path, "test")) == 3


def test_the_source_does_not_say_where_the_images_lie():
    images = pooled_images("fashion-mnist", "train", 30, 14)
    assert len(images) == 30
    assert "/" not in images.source


def test_colours_become_grey(make_colours):
    grey = zoo_commands.grey(make_colours)
    assert grey.images.shape == (4, 1, 8, 8)
    assert abs(float(grey.images.mean())) < 0.1
    assert zoo_commands.grey(grey) is grey


@pytest.fixture
def make_colours():
    """White noise in normalised colours."""
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return ImageData(pixels, torch.zeros(4, dtype=torch.int64), source="noise")
