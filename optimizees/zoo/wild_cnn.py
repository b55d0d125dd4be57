"""The networks of the CNN Wild Park: small CNNs of random architectures."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from optimizees.activations import build_activation
from optimizees.draws import draw_one

Activation: TypeAlias = Literal[
    "relu", "gelu", "tanh", "sigmoid", "leaky_relu", "identity"
]

DEPTHS = (2, 3, 4, 5)
"""Numbers of convolutions to draw from."""
CHANNELS = (4, 8, 16, 32)
"""Output channels of a convolution to draw from."""
KERNEL_SIZES = (3, 5, 7)
"""Sides of a kernel in pixels to draw from."""
ACTIVATIONS: tuple[Activation, ...] = (
    "relu",
    "gelu",
    "tanh",
    "sigmoid",
    "leaky_relu",
    "identity",
)
"""Activations to draw from."""
NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class WildLayer:
    """One convolution with its activation and skip connection."""

    channels: int
    """Output channels."""
    kernel_size: int
    """Side of the kernel in pixels, odd."""
    activation: Activation
    """Applied after the skip connection."""
    skip: int | None = None
    """Which earlier layer's activations are added to the convolution's output, counted
    from 0; None for none."""


@dataclass(frozen=True, kw_only=True)
class WildArchitecture:
    """What a network of the park looks like: enough to build it."""

    layers: tuple[WildLayer, ...]
    """The convolutions, in order."""
    in_channels: int = 3
    """Channels of the images."""

    def __post_init__(self) -> None:
        sizes = [self.in_channels]
        for layer in self.layers:
            sizes += [layer.channels, layer.kernel_size]
            if layer.activation not in ACTIVATIONS:
                raise ValueError(
                    f"WildLayer activation must be one of {', '.join(ACTIVATIONS)}; "
                    f"got {layer.activation!r}. Choose among those."
                )
        if not all(type(size) is int and 0 < size < 10_000 for size in sizes):
            raise ValueError(
                "WildArchitecture needs channels and kernel sizes from 1 to 9,999; got "
                f"{sizes}. Pass numbers of the park, for example 16 and 3."
            )
        for place, layer in enumerate(self.layers):
            if layer.skip is not None and not 0 <= layer.skip <= place - 2:
                raise ValueError(
                    "WildArchitecture needs skips that leave out at least one layer; "
                    f"got skip={layer.skip} into layer {place}. Name a layer from 0 "
                    f"to {place - 2}, or None."
                )
        if not self.layers:
            raise ValueError(
                "WildArchitecture needs at least one layer; got layers=(). "
                "Pass a WildLayer for each convolution."
            )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "WildArchitecture":
        """Return what `to_json` described."""
        layers = tuple(WildLayer(**layer) for layer in values["layers"])
        return cls(layers=layers, in_channels=values["in_channels"])


def draw_architecture(
    generator: torch.Generator, *, in_channels: int = 3
) -> WildArchitecture:
    """Draw a network as the park's distribution has it.

    The number of layers is uniform; every layer picks channels, kernel, activation and
    skip independently. The skip into layer i is none or comes from one of the layers
    0..i-2, all equally likely, so layers 0 and 1 never have one and the last layer is
    never a source.

    Args:
        generator: on the CPU; decides everything.
        in_channels: channels of the images.

    Returns:
        The architecture.

    Reference: Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143,
        section 4.2 and appendix E; the released generator draws from Python's global
        generator without a seed, this one from its own.
    """
    layers = []
    for place in range(draw_one(DEPTHS, generator)):
        sources = (None, *range(place - 1))
        layers.append(
            WildLayer(
                channels=draw_one(CHANNELS, generator),
                kernel_size=draw_one(KERNEL_SIZES, generator),
                activation=draw_one(ACTIVATIONS, generator),
                skip=draw_one(sources, generator),
            )
        )
    return WildArchitecture(layers=tuple(layers), in_channels=in_channels)


def parameter_shapes(architecture: WildArchitecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a `WildCNN`, layer after layer.

    Args:
        architecture: the network.

    Returns:
        Name to shape, in the order of the layers, each weight before its bias.

    Example:
        >>> layer = WildLayer(channels=4, kernel_size=5, activation="tanh")
        >>> list(parameter_shapes(WildArchitecture(layers=(layer,))).values())
        [(4, 3, 5, 5), (4,), (10, 4), (10,)]
    """
    shapes: dict[str, tuple[int, ...]] = {}
    width = architecture.in_channels
    for place, layer in enumerate(architecture.layers):
        side = layer.kernel_size
        shapes[f"convs.{place}.weight"] = (layer.channels, width, side, side)
        shapes[f"convs.{place}.bias"] = (layer.channels,)
        width = layer.channels
    shapes["head.weight"] = (NUM_CLASSES, width)
    shapes["head.bias"] = (NUM_CLASSES,)
    return shapes


class WildCNN(nn.Module):
    """A network of the park: convolutions with skips, average pooling, a linear head.

    Every convolution keeps the size of the image. A skip adds the activations of an
    earlier layer to a convolution's output, before the activation; where widths differ,
    as many channels as both have. Parameters keep PyTorch's default initialisation.

    Args:
        architecture: what to build.

    Example:
        >>> layer = WildLayer(channels=4, kernel_size=5, activation="tanh")
        >>> model = WildCNN(WildArchitecture(layers=(layer, layer)))
        >>> sum(param.numel() for param in model.parameters())
        758

    Reference: Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143,
        appendix E.
    """

    def __init__(self, architecture: WildArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        convs: list[nn.Module] = []
        width = architecture.in_channels
        for layer in architecture.layers:
            side = layer.kernel_size
            convs.append(nn.Conv2d(width, layer.channels, side, padding=side // 2))
            width = layer.channels
        self.convs = nn.ModuleList(convs)
        self.activations = nn.ModuleList(
            build_activation(layer.activation) for layer in architecture.layers
        )
        self.head = nn.Linear(width, NUM_CLASSES)

    @override
    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        """Return one logit per class for every image."""
        maps, earlier = images, []
        layers = self.architecture.layers
        for layer, conv, activation in zip(
            layers, self.convs, self.activations, strict=True
        ):
            maps = conv(maps)
            if layer.skip is not None:
                maps = _add_shared(maps, earlier[layer.skip])
            maps = activation(maps)
            earlier.append(maps)
        return self.head(maps.mean(dim=(2, 3)))


def _add_shared(maps: Tensor, other: Tensor) -> Tensor:
    """Add as many channels as both have."""
    missing = maps.shape[1] - other.shape[1]
    if missing > 0:
        return maps + functional.pad(other, (0, 0, 0, 0, 0, missing))
    return maps + other[:, : maps.shape[1]]
