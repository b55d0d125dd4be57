import pytest
import torch

from benchmarks.generalization.data import load_population
from optimizees import ImageData
from optimizees.zoo.small_cnn_group import ZooConfig
from optimizees.zoo.small_cnn_training import generate_zoo
from optimizees.zoo.wild_park import EMBEDDED_PARK


@pytest.fixture(scope="session")
def park():
    return load_population("park", EMBEDDED_PARK)


@pytest.fixture(scope="session")
def zoo_directory(tmp_path_factory):
    """Thirty networks of the zoo's family, hardly trained."""
    directory = tmp_path_factory.mktemp("zoo")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 10
    pixels = torch.randn(40, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
    images = ImageData(pixels, labels, source="made up")
    config = ZooConfig(checkpoints=(0, 4), batch_size=16, at_once=8)
    generate_zoo(directory, config, images, images, num_networks=30, origin={})
    return directory


@pytest.fixture(scope="session")
def zoo(zoo_directory):
    return load_population("zoo", zoo_directory)
