"""Small convolutional classifiers: what the paper's learned optimizers train."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from optimizees.activations import build_activation
from optimizees.norms import NormName, build_norm


class ConvNet(nn.Module):
    """A stack of convolutions, a pooling head and one linear layer.

    The first convolution has stride 2 and no padding; every other one has stride 1
    and keeps the image size. Every parameter keeps PyTorch's default initialisation.

    Args:
        in_channels: channels of the input image.
        channels: output channels of each convolution, at least one.
        num_classes: outputs of the linear layer.
        kernel_size: side of every kernel in pixels, odd.
        activation: name for `build_activation`, applied after each convolution.
        head: "pool" averages each channel over the image; "flatten" keeps every pixel.
        image_size: side of the input image in pixels; only "flatten" depends on it.
        norm: name for `build_norm`, before each activation.

    Raises:
        ValueError: if `channels` is empty, if `kernel_size` is even, if `head` is
            unknown or if the image is smaller than the kernel.

    Reference: Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143,
        section 4.3. The paper gives the channels; the stride and padding follow the
        parameter counts and layouts of later re-implementations.
    """

    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, ...],
        num_classes: int = 10,
        kernel_size: int = 3,
        activation: str = "relu",
        head: Literal["pool", "flatten"] = "pool",
        image_size: int = 28,
        norm: NormName = "none",
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError(
                "ConvNet needs at least one convolution; got channels=(). "
                "Pass the output channels of each, such as channels=(16, 32, 32)."
            )
        if kernel_size % 2 == 0:
            raise ValueError(
                "ConvNet needs an odd kernel_size, so that padding keeps the image "
                f"size; got {kernel_size}. Pass 1, 3 or 5."
            )
        if image_size < kernel_size:
            raise ValueError(
                f"ConvNet needs images of at least kernel_size={kernel_size} pixels; "
                f"got image_size={image_size}. Pass a smaller kernel_size."
            )
        if head not in ("pool", "flatten"):
            raise ValueError(
                f"ConvNet needs a known head; got {head!r}. "
                "Pass head='pool' or head='flatten'."
            )
        layers: list[nn.Module] = []
        width = in_channels
        for index, out_channels in enumerate(channels):
            first = index == 0
            layers.append(
                nn.Conv2d(
                    width,
                    out_channels,
                    kernel_size,
                    stride=2 if first else 1,
                    padding=0 if first else kernel_size // 2,
                )
            )
            if norm != "none":
                layers.append(build_norm(norm, out_channels, is_image=True))
            layers.append(build_activation(activation))
            width = out_channels
        self.body = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1) if head == "pool" else nn.Identity()
        pixels = 1 if head == "pool" else ((image_size - kernel_size) // 2 + 1) ** 2
        self.head = nn.Linear(width * pixels, num_classes)

    @override
    def forward(self, inputs: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        """Return one logit per class for every image."""
        return self.head(self.pool(self.body(inputs)).flatten(1))


def fashion_cnn() -> ConvNet:
    """Build the paper's training-task network: 1 -> 16 -> 32 -> 32 -> 10.

    Returns:
        A network of 14,378 parameters for grey images of 28 x 28 pixels.
    """
    return ConvNet(1, (16, 32, 32))


def cifar_cnn() -> ConvNet:
    """Build the paper's test-task network: 3 -> 32 -> 64 -> 64 -> 10.

    Returns:
        A network of 56,970 parameters for colour images of 32 x 32 pixels.
    """
    return ConvNet(3, (32, 64, 64), image_size=32)
