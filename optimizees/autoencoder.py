"""An autoencoder for images."""

from torch import Tensor, nn
from typing_extensions import override

from optimizees.mlp import MLP


class Autoencoder(nn.Module):
    """Two perceptrons with a narrow layer between them.

    Args:
        pixels: of an image, all channels together.
        hidden: neurons of the layer on either side of the code.
        code: numbers that encode an image.
        activation: name for `build_activation`.

    Example:
        >>> sum(weight.numel() for weight in Autoencoder(784).parameters())
        209968

    Reference:
        Hinton and Salakhutdinov, 2006, "Reducing the Dimensionality of Data with
        Neural Networks", https://doi.org/10.1126/science.1127647; smaller.
    """

    def __init__(
        self, pixels: int, hidden: int = 128, code: int = 32, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.encoder = MLP((pixels, hidden, code), activation)
        self.decoder = MLP((code, hidden, pixels), activation)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return images of the shape of `inputs`, `[B, C, H, W]`."""
        return self.decoder(self.encoder(inputs)).view_as(inputs)
