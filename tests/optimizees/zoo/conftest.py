import pytest
import torch

from optimizees import ImageData


@pytest.fixture(scope="session")
def make_images():
    """Build images of 8 x 8 pixels whose brightness tells their class."""

    def build(channels, count=40):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(count) % 10
        pixels = torch.randn(count, channels, 8, 8, generator=generator)
        return ImageData(pixels + labels.view(-1, 1, 1, 1), labels, source="made up")

    return build
