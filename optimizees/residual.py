"""Small residual networks for images."""

from torch import Tensor, nn
from typing_extensions import override

from optimizees.activations import build_activation
from optimizees.norms import NormName, build_norm


class ResidualBlock(nn.Module):
    """Two convolutions with a residual connection.

    Args:
        channels: in and out.
        kernel_size: side of the kernels in pixels, odd.
        activation: name for `build_activation`.
        norm: name for `build_norm`, after each convolution.
    """

    def __init__(
        self, channels: int, kernel_size: int, activation: str, norm: NormName
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.first = nn.Conv2d(channels, channels, kernel_size, padding=padding)
        self.first_norm = build_norm(norm, channels, is_image=True)
        self.second = nn.Conv2d(channels, channels, kernel_size, padding=padding)
        self.second_norm = build_norm(norm, channels, is_image=True)
        self.activation = build_activation(activation)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return images of the same shape."""
        hidden = self.activation(self.first_norm(self.first(inputs)))
        return self.activation(inputs + self.second_norm(self.second(hidden)))


class ResidualNet(nn.Module):
    """A strided convolution, residual blocks, mean over the image, one linear layer.

    Args:
        in_channels: channels of the image.
        channels: of every hidden map.
        num_blocks: residual blocks.
        num_classes: outputs.
        kernel_size: side of the kernels in pixels, odd.
        activation: name for `build_activation`.
        norm: name for `build_norm`.

    Reference: He et al., 2016, "Deep Residual Learning for Image Recognition",
        https://arxiv.org/abs/1512.03385; smaller, and without running statistics.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_blocks: int,
        num_classes: int = 10,
        kernel_size: int = 3,
        activation: str = "relu",
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(
            in_channels, channels, kernel_size, stride=2, padding=kernel_size // 2
        )
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(channels, kernel_size, activation, norm)
                for _ in range(num_blocks)
            )
        )
        self.head = nn.Linear(channels, num_classes)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return one logit per class for every image."""
        return self.head(self.blocks(self.stem(inputs)).mean((2, 3)))
