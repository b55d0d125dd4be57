"""Other networks for the same class: moves of the image, and small damage.

All functions are pure and take networks as name to [B, *shape].
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from optimizees.siren import Networks

_FIRST_WEIGHT, _FIRST_BIAS = "seq.0.weight", "seq.0.bias"


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How much each augmentation does; 0 switches it off."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    rotation: float = 45.0
    """Largest turn of the image to either side, in degrees."""
    scale: float = 0.2
    """Largest change of the image's size: from 1 - scale to 1 + scale."""
    translation: float = 0.25
    """Largest move of the image along each axis, where the image is 2 wide."""
    noise: float = 0.1
    """Standard deviation of what is added to parameters, as a share of their own in
    their tensor."""
    dropout: float = 0.01
    """Share of the parameters that become 0."""

    def __post_init__(self) -> None:
        values = (self.rotation, self.scale, self.translation, self.noise, self.dropout)
        if min(values) < 0 or max(self.scale, self.dropout) >= 1:
            raise ValueError(
                "AugmentationConfig needs amounts of at least 0, and a scale and a "
                f"dropout below 1; got {self}. Use 0 to switch one off."
            )


def augment(
    networks: Networks, config: AugmentationConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return networks turned, scaled, moved, with noise and gaps, each at random.

    Args:
        networks: parameters by their names in `Siren`.
        config: how much of each.
        generator: draws all, on the CPU.

    Reference:
        The augmentations of Navon et al., 2023, but for three faults of their code: it
        adds the same constant everywhere as noise, multiplies what survives dropout by
        1 / (1 - share), as if the next layer would average, and moves biases behind
        sines, which moves no image.
    """
    weight = networks[_FIRST_WEIGHT]
    size = len(weight)

    def uniform(reach: float, *shape: int) -> Tensor:
        """Draw numbers between -reach and reach."""
        drawn = torch.rand(*shape, generator=generator, dtype=torch.float64)
        return ((2 * drawn - 1) * reach).to(weight)

    networks = rotate(networks, uniform(math.radians(config.rotation), size))
    networks = rescale(networks, 1 + uniform(config.scale, size))
    networks = translate(networks, uniform(config.translation, size, 2))
    networks = add_noise(networks, config.noise, generator)
    return drop_parameters(networks, config.dropout, generator)


def rotate(networks: Networks, angles: Float[Tensor, " B"]) -> dict[str, Tensor]:
    """Turn the images about their centres; exact.

    Args:
        networks: parameters by their names in `Siren`.
        angles: in radians; a positive one turns the x axis towards the y axis, which
            is clockwise where rows run downwards.
    """
    cosine, sine = angles.cos(), angles.sin()
    back = torch.stack(
        [torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], -2
    )
    return {**networks, _FIRST_WEIGHT: networks[_FIRST_WEIGHT] @ back}


def rescale(networks: Networks, factors: Float[Tensor, " B"]) -> dict[str, Tensor]:
    """Make the images larger by a factor, about their centres; exact.

    Args:
        networks: parameters by their names in `Siren`.
        factors: positive; 2 makes everything twice as wide.
    """
    weight = networks[_FIRST_WEIGHT]
    return {**networks, _FIRST_WEIGHT: weight / factors.view(-1, 1, 1)}


def translate(networks: Networks, shifts: Float[Tensor, "B 2"]) -> dict[str, Tensor]:
    """Move the images; exact.

    Args:
        networks: parameters by their names in `Siren`.
        shifts: along x and y, where an image is 2 wide.
    """
    moved = (networks[_FIRST_WEIGHT] @ shifts.unsqueeze(-1)).squeeze(-1)
    return {**networks, _FIRST_BIAS: networks[_FIRST_BIAS] - moved}


def add_noise(
    networks: Networks, share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Add normal noise to every parameter.

    Args:
        networks: parameters by name.
        share: standard deviation of the noise, as a share of that of the network's own
            tensor; a tensor of a single number keeps it.
        generator: draws the noise.
    """
    if share == 0:
        return dict(networks)
    noisy: dict[str, Tensor] = {}
    for name, weight in networks.items():
        spread = weight.flatten(1).std(1, correction=0)
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        spread = spread.view(-1, *[1] * (weight.ndim - 1))
        noisy[name] = weight + share * spread * noise
    return noisy


def drop_parameters(
    networks: Networks, share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Set some parameters to zero and leave the others as they are.

    Args:
        networks: parameters by name.
        share: how many, on average.
        generator: draws which.
    """
    if share == 0:
        return dict(networks)
    return {
        name: weight.masked_fill(
            (torch.rand(weight.shape, generator=generator) < share).to(weight.device),
            0.0,
        )
        for name, weight in networks.items()
    }
