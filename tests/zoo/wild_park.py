"""Random convolutional networks: the population that the paper calls the wild park.

Kofinas et al., 2024, https://arxiv.org/abs/2403.12143, section 4.2: two to five
convolutions, each with its own width, kernel and activation, and at most one skip into
each, from at least one layer further back. Where widths differ, the skip joins as many
channels as both have.
"""

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "identity": lambda maps: maps,
}


class WildCNN(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.convs, self.activations, self.skips = nn.ModuleList(), [], []
        width = 3
        for layer in range(draw.randint(2, 5)):
            channels, kernel = draw.choice((4, 8, 16, 32)), draw.choice((3, 5, 7))
            self.convs.append(nn.Conv2d(width, channels, kernel, padding=kernel // 2))
            self.activations.append(draw.choice(sorted(_ACTIVATIONS)))
            self.skips.append(draw.choice([None, *range(layer - 1)]))
            width = channels
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps, earlier = images, []
        for conv, name, skip in zip(
            self.convs, self.activations, self.skips, strict=True
        ):
            maps = conv(maps)
            if skip is not None:
                shared = min(maps.shape[1], earlier[skip].shape[1])
                added = maps[:, :shared] + earlier[skip][:, :shared]
                maps = torch.cat([added, maps[:, shared:]], dim=1)
            maps = _ACTIVATIONS[name](maps)
            earlier.append(maps)
        return self.head(maps.mean(dim=(2, 3)))


def member(seed: int):
    """The network that a seed names, and two images of 9 x 9 pixels."""
    return WildCNN(seed), (torch.randn(2, 3, 9, 9),)
