"""Networks with sines, each of which is one image: implicit neural representations."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from .mlp import check_widths

WIDTHS = (2, 32, 32, 1)
"""Neurons of each layer: two coordinates in, one grey value out."""
FREQUENCY = 30.0
"""What stands before the argument of each sine."""
OFFSET = 0.5
"""Grey value of a network whose last layer is zero."""

LastLayer: TypeAlias = Literal["sine", "linear"]
"""How the last layer is drawn: like those before a sine, or as `nn.Linear` draws it."""

Networks: TypeAlias = Mapping[str, Tensor]
"""Parameters of networks of one shape, by name, each with leading axes in common."""


class Siren(nn.Module):
    """A small network from a place in an image to its grey value there.

    .. math:: f(x) = W_3 s(W_2 s(W_1 x + b_1) + b_2) + b_3 + 1/2, s(z) = sin(30 z)

    Args:
        widths: neurons of each layer, coordinates first and values last.
        generator: draws the initial weights; None takes PyTorch's own.

    Raises:
        ValueError: if `widths` has fewer than two entries.

    Example:
        >>> network = Siren()
        >>> sum(weight.numel() for weight in network.parameters())
        1185
        >>> network(pixel_grid(28)).shape
        torch.Size([784, 1])

    Reference:
        Sitzmann et al., 2020, "Implicit Neural Representations with Periodic
        Activation Functions", https://arxiv.org/abs/2006.09661, in the form that Navon
        et al., 2023, "Equivariant Architectures for Learning in Deep Weight Spaces",
        https://arxiv.org/abs/2301.12780, fitted images with.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = WIDTHS,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_widths("Siren", widths, "(2, 32, 1)")
        self.seq = nn.ModuleList(
            nn.Linear(source, target) for source, target in pairwise(widths)
        )
        self.load_state_dict(draw_siren(widths, generator))

    @override
    def forward(self, points: Float[Tensor, "P inputs"]) -> Float[Tensor, "P outputs"]:
        """Return the values at some places."""
        return render(dict(self.named_parameters()), points)


def draw_siren(
    widths: tuple[int, ...] = WIDTHS,
    generator: torch.Generator | None = None,
    last_layer: LastLayer = "sine",
) -> dict[str, Tensor]:
    """Draw the initial weights of one network.

    Weights lie uniformly within sqrt(6 / inputs) / 30, biases are zero.

    Args:
        widths: neurons of each layer, coordinates first and values last.
        generator: draws them; None takes PyTorch's own.
        last_layer: "linear" draws weights and biases of the last layer within
            1 / sqrt(inputs) instead. Such a network starts with a loud random image,
            and needs about four times the steps.

    Returns:
        Parameters by their names in `Siren`.

    Reference:
        Navon et al., 2023, as reported. In the data that they published weights and
        biases of the last layer deviate by 0.12 and 0.10, as they do from "linear".
    """
    drawn: dict[str, Tensor] = {}
    last = len(widths) - 2
    for layer, (source, target) in enumerate(pairwise(widths)):
        weight, bias = torch.empty(target, source), torch.zeros(target)
        if layer == last and last_layer == "linear":
            reach = 1 / math.sqrt(source)
            bias.uniform_(-reach, reach, generator=generator)
        else:
            reach = math.sqrt(6 / source) / FREQUENCY
        weight.uniform_(-reach, reach, generator=generator)
        drawn |= {f"seq.{layer}.weight": weight, f"seq.{layer}.bias": bias}
    return drawn


def siren_shapes(widths: tuple[int, ...] = WIDTHS) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters by name, in order.

    Args:
        widths: neurons of each layer, coordinates first and values last.

    Example:
        >>> siren_shapes()["seq.1.weight"]
        (32, 32)
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (source, target) in enumerate(pairwise(widths)):
        shapes[f"seq.{layer}.weight"] = (target, source)
        shapes[f"seq.{layer}.bias"] = (target,)
    return shapes


def siren_values(
    networks: Networks, points: Float[Tensor, "P inputs"]
) -> list[Float[Tensor, "*B P neurons"]]:
    """Return the activations of all neurons of some networks at some places.

    Args:
        networks: parameters by their names in `Siren`, with leading axes in common or
            with none.
        points: the places.

    Returns:
        One tensor per layer: the places themselves, what leaves each sine, the values.
        Autograd passes through all.
    """
    num_layers = len(networks) // 2
    leading = networks["seq.0.bias"].shape[:-1]
    values = [points.expand(*leading, *points.shape)]
    for layer in range(num_layers):
        weight, bias = networks[f"seq.{layer}.weight"], networks[f"seq.{layer}.bias"]
        summed = values[-1] @ weight.mT + bias.unsqueeze(-2)
        is_last = layer + 1 == num_layers
        values.append(summed + OFFSET if is_last else torch.sin(FREQUENCY * summed))
    return values


def render(
    networks: Networks, points: Float[Tensor, "P inputs"]
) -> Float[Tensor, "*B P outputs"]:
    """Return the values of networks at some places, the last of `siren_values`.

    Args:
        networks: as for `siren_values`.
        points: the places.

    Example:
        >>> blank = {name: 0 * weight for name, weight in Siren().named_parameters()}
        >>> render(blank, pixel_grid(2)).flatten().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    return siren_values(networks, points)[-1]


def render_images(networks: Networks, size: int = 28) -> Float[Tensor, "*B size size"]:
    """Return the images that networks of two coordinates and one value represent.

    Args:
        networks: as for `render`.
        size: pixels per side.
    """
    weight = networks["seq.0.weight"]
    points = pixel_grid(size, weight.dtype).to(weight.device)
    return render(networks, points).squeeze(-1).unflatten(-1, (size, size))


def pixel_grid(size: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "P 2"]:
    """Return the places of pixels as (x, y) from -1 to 1, row by row, x the fastest.

    Args:
        size: pixels per side.
        dtype: of the coordinates.
    """
    axis = torch.linspace(-1, 1, size, dtype=dtype)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)
