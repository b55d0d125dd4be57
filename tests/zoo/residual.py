"""Convolutional networks with skips, concatenations and shuffles."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two convolutions with batch norms, and a shortcut with one where sizes differ."""

    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or width != channels:
            conv = nn.Conv2d(width, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(hidden + self.shortcut(maps))


class ResNet(nn.Module):
    def __init__(self, blocks: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        stages, width = [], channels[0]
        for stage, size in enumerate(channels):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(BasicBlock(width, size, stride))
                width = size
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stages(F.relu(self.norm(self.stem(images))))
        return self.head(maps.mean(dim=(2, 3)))


def cifar_resnet20():
    """He et al.'s network of 0.27 million weights, on smaller images."""
    return ResNet(3, (16, 32, 64)), (torch.randn(2, 3, 12, 12),)


def cifar_resnet8():
    return ResNet(1, (6, 8, 10)), (torch.randn(2, 3, 8, 8),)


class PreActivation(nn.Module):
    """The norm comes first, and the sum is passed on as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels + 2, 3, padding=1)
        self.conv2 = nn.Conv2d(channels + 2, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels + 2)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.conv1(F.relu(self.norm1(maps)))
        return maps + self.conv2(F.relu(self.norm2(hidden)))


def preactivation_resnet():
    layers = (
        *(nn.Conv2d(3, 8, 3, padding=1), PreActivation(8), PreActivation(8)),
        *(nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(8, 4),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 8, 8),)


class DenseLayer(nn.Module):
    """What it computes is concatenated to what it reads."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, self.conv(F.relu(self.norm(maps)))], dim=1)


def densenet():
    layers = (
        *(nn.Conv2d(3, 6, 3, padding=1), DenseLayer(6, 4), DenseLayer(10, 4)),
        *(nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 7, 1), nn.AvgPool2d(2)),
        *(DenseLayer(7, 4), nn.ReLU(), nn.Flatten(), nn.Linear(11 * 9, 4)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 6, 6),)


class InvertedResidual(nn.Module):
    """Wider, a depthwise convolution, narrower; added where sizes agree."""

    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        wide, self.skips = 2 * width, stride == 1 and width == channels
        self.body = nn.Sequential(
            *(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            *(nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.body(maps) if self.skips else self.body(maps)


def mobilenet():
    layers = (
        *(nn.Conv2d(3, 6, 3, padding=1), nn.Hardswish(), InvertedResidual(6, 6, 1)),
        *(InvertedResidual(6, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(8, 4),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 8, 8),)


class ShuffleUnit(nn.Module):
    """Half of the channels is processed, then the halves are interleaved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            *(nn.Conv2d(half, half, 1), nn.BatchNorm2d(half), nn.ReLU()),
            nn.Conv2d(half, half, 3, padding=1, groups=half),
            *(nn.Conv2d(half, half, 1), nn.ReLU()),
        )

    def forward(self, maps: Tensor) -> Tensor:
        left, right = maps.chunk(2, dim=1)
        maps = torch.cat([left, self.branch(right)], dim=1)
        return maps.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def shufflenet():
    layers = (
        *(nn.Conv2d(3, 8, 3, padding=1), ShuffleUnit(8), ShuffleUnit(8)),
        *(nn.ChannelShuffle(4), nn.Conv2d(8, 8, 1, groups=4), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 6, 6),)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then a scaled perceptron on channels that come last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, 2 * channels)
        self.down = nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.norm(self.depthwise(maps).permute(0, 2, 3, 1))
        hidden = self.scale * self.down(F.gelu(self.up(hidden)))
        return maps + hidden.permute(0, 3, 1, 2)


def convnext():
    layers = (
        *(nn.Conv2d(3, 8, 2, stride=2), ConvNeXtBlock(8), ConvNeXtBlock(8)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 4)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 8, 8),)
