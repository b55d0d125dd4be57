import pytest
import torch

from optimizees.data.images import ImageData


@pytest.fixture
def data():
    """Forty random grey images of 8 x 8 pixels; image i is labelled i % 10."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 1, 8, 8, generator=generator)
    return ImageData(images, torch.arange(40) % 10, source="random images")
