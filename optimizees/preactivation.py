"""Residual networks for CIFAR that normalise before they convolve."""

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override


class PreActivationUnit(nn.Module):
    """Norm, activation, convolution, twice, with a residual connection.

    Args:
        in_channels: of what comes in.
        channels: of what goes out.
        stride: of the first convolution; the skipping path follows by a 1 x 1
            convolution where the shape changes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(in_channels), nn.BatchNorm2d(channels)]
        )
        self.convolutions = nn.ModuleList(
            [_kernel(in_channels, channels, 3, stride), _kernel(channels, channels, 3)]
        )
        keeps_shape = stride == 1 and in_channels == channels
        self.shortcut = (
            None if keeps_shape else _kernel(in_channels, channels, 1, stride)
        )

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return images of `channels`, smaller by the stride."""
        hidden = functional.relu(self.norms[0](inputs))
        skipped = inputs if self.shortcut is None else self.shortcut(hidden)
        hidden = functional.relu(self.norms[1](self.convolutions[0](hidden)))
        return skipped + self.convolutions[1](hidden)


class PreActivationNet(nn.Module):
    """Three stages of 16, 32 and 64 channels for images of 32 x 32 pixels.

    Its batch norms keep running statistics, as torchvision's do, so it behaves
    differently in training and in evaluation.

    Args:
        units: in each stage; the network has 6 * units + 2 layers.
        num_classes: outputs.

    Example:
        >>> sum(weight.numel() for weight in PreActivationNet(units=1).parameters())
        77850

    Reference:
        He et al., 2016, "Identity Mappings in Deep Residual Networks",
        https://arxiv.org/abs/1603.05027; a convolution where a path that skips must
        change its shape.
    """

    def __init__(self, units: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = _kernel(3, 16, 3)
        self.units = nn.Sequential()
        width = 16
        for channels in (16, 32, 64):
            for index in range(units):
                stride = 2 if index == 0 and channels > 16 else 1
                self.units.append(PreActivationUnit(width, channels, stride))
                width = channels
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return one logit per class for every image `[B, 3, 32, 32]`."""
        maps = functional.relu(self.norm(self.units(self.stem(inputs))))
        return self.head(maps.mean((2, 3)))


def _kernel(in_channels: int, channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without a bias, which the norm behind it would undo."""
    return nn.Conv2d(
        in_channels, channels, size, stride=stride, padding=size // 2, bias=False
    )
