import torch

from optimizees.autoencoder import Autoencoder


def test_images_are_squeezed_and_restored_in_their_shape():
    net = Autoencoder(3 * 4 * 4, hidden=8, code=2)
    images = torch.randn(5, 3, 4, 4)
    assert net.encoder(images).shape == (5, 2)
    assert net(images).shape == images.shape
