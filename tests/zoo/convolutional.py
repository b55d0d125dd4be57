"""Convolutional networks without residual connections."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimizees import ConvNet


def paper_cnn():
    """The paper's family, narrower than its FashionMNIST network."""
    return ConvNet(1, (6, 8, 8)), (torch.randn(2, 1, 14, 14),)


def paper_cnn_with_flattened_head():
    net = ConvNet(3, (6, 8), head="flatten", image_size=10)
    return net, (torch.randn(2, 3, 10, 10),)


def lenet():
    layers = (
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 10)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 1, 12, 12),)


def vgg():
    """Batch norms, max pooling and a flattened head."""
    layers, width = [], 3
    for channels in (8, 8, 12):
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        width = channels
    layers += [nn.Flatten(), nn.Linear(12 * 4, 16), nn.ReLU(), nn.Linear(16, 5)]
    return nn.Sequential(*layers), (torch.randn(2, 3, 16, 16),)


def grouped_and_dilated():
    layers = (
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU()),
        *(nn.Conv2d(12, 6, 3, dilation=2, groups=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 12, 12),)


def transposed():
    """A generator: a vector becomes an image."""
    layers = (
        *(nn.ConvTranspose2d(5, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, groups=2), nn.Tanh()),
        nn.Conv2d(6, 2, 1),
    )
    return nn.Sequential(*layers), (torch.randn(2, 5, 1, 1),)


def autoencoder():
    """Strided convolutions, a code, and the way back through nearest neighbours."""
    layers = (
        *(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ELU()),
        *(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ELU(), nn.Flatten()),
        *(nn.Linear(8 * 4, 7), nn.Tanh(), nn.Linear(7, 8 * 4), nn.ELU()),
        *(nn.Unflatten(1, (8, 2, 2)), nn.Upsample(scale_factor=4)),
        *(nn.Conv2d(8, 6, 3, padding=1), nn.ELU(), nn.Conv2d(6, 1, 3, padding=1)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 1, 8, 8),)


def conv1d():
    layers = (
        *(nn.Conv1d(2, 8, 5), nn.LeakyReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3)),
        *(nn.GELU(), nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(12, 4)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 2, 20),)


def conv3d():
    layers = (
        *(nn.Conv3d(1, 6, 3), nn.ReLU(), nn.Conv3d(6, 5, (1, 3, 3)), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 3)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 1, 5, 7, 7),)


def pixel_shuffle():
    """Super-resolution: channels become pixels."""
    layers = (
        *(nn.Conv2d(1, 6, 3, padding=1), nn.PReLU(), nn.Conv2d(6, 12, 3, padding=1)),
        *(nn.PixelShuffle(2), nn.PReLU(), nn.Conv2d(3, 1, 3, padding=1)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 1, 5, 5),)


def group_norm():
    layers = (
        *(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 6, 3)),
        *(nn.GroupNorm(1, 6), nn.SiLU(), nn.Flatten(), nn.Linear(6 * 9, 4)),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 7, 7),)


def instance_norm():
    layers = (
        *(nn.Conv2d(3, 8, 3, bias=False), nn.InstanceNorm2d(8, affine=True)),
        *(nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1, padding_mode="reflect")),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 7, 7),)


class SqueezeExcite(nn.Module):
    """A channel's mean, through two layers, scales that channel."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, squeezed)
        self.up = nn.Linear(squeezed, channels)

    def forward(self, maps: Tensor) -> Tensor:
        means = maps.mean(dim=(2, 3))
        scales = torch.sigmoid(self.up(F.silu(self.down(means))))
        return maps * scales[:, :, None, None]


def squeeze_excite():
    layers = (
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), SqueezeExcite(8, 4), nn.Conv2d(8, 6, 3)),
        *(nn.ReLU(), SqueezeExcite(6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(6, 4),
    )
    return nn.Sequential(*layers), (torch.randn(2, 3, 8, 8),)


class UNet(nn.Module):
    """Two scales; the finer one is concatenated on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 6, 3, padding=1)
        self.bottom = nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
        self.joint = nn.Conv2d(11, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = torch.relu(self.down(images))
        coarse = torch.relu(self.bottom(F.max_pool2d(fine, 2)))
        joint = torch.cat([self.up(coarse), fine], dim=1)
        return self.last(torch.relu(self.joint(joint)))


def unet():
    return UNet(), (torch.randn(2, 1, 8, 8),)
