"""ResNet-18, as published and with a stem for small images."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class _Unit(nn.Module):
    """Two 3 x 3 convolutions with a residual connection."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(
            in_channels, channels, 3, stride=stride, padding=1, bias=False
        )
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.skip = nn.Sequential()
        if stride > 1 or in_channels != channels:
            self.skip.append(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            )
            self.skip.append(nn.BatchNorm2d(channels))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first_norm(self.first(inputs)))
        return F.relu(self.second_norm(self.second(hidden)) + self.skip(inputs))


class ResNet18(nn.Module):
    """Eight residual units in four stages of 64 to 512 channels.

    Args:
        num_classes: outputs.
        stem: "imagenet" is a strided 7 x 7 convolution and a pooling, as published;
            "cifar" is one 3 x 3 convolution, for images of 32 pixels.

    Example:
        >>> sum(weight.numel() for weight in ResNet18().parameters())
        11689512

    Reference:
        He et al., 2016, "Deep Residual Learning for Image Recognition",
        https://arxiv.org/abs/1512.03385.
    """

    def __init__(
        self, num_classes: int = 1000, stem: Literal["imagenet", "cifar"] = "imagenet"
    ) -> None:
        super().__init__()
        if stem == "imagenet":
            first = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            pool = nn.MaxPool2d(3, stride=2, padding=1)
            self.stem = nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU(), pool)
        else:
            first = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            self.stem = nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU())
        widths = (64, 64, 128, 256, 512)
        self.stages = nn.Sequential()
        for stage in range(4):
            stride = 1 if stage == 0 else 2
            self.stages.append(_Unit(widths[stage], widths[stage + 1], stride))
            self.stages.append(_Unit(widths[stage + 1], widths[stage + 1], 1))
        self.head = nn.Linear(512, num_classes)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return one logit per class for every image `[B, 3, height, width]`."""
        return self.head(self.stages(self.stem(inputs)).mean((2, 3)))
