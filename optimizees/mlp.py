"""Multi-layer perceptrons."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from optimizees.activations import build_activation
from optimizees.norms import NormName, build_norm


class MLP(nn.Module):
    """Linear layers with an activation between each two; flattens its input.

    Args:
        widths: neurons of each layer, inputs first and outputs last; at least two.
        activation: name for `build_activation`.
        norm: name for `build_norm`, before each activation.

    Raises:
        ValueError: if `widths` has fewer than two entries.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        activation: str = "relu",
        norm: NormName = "none",
    ) -> None:
        super().__init__()
        check_widths("MLP", widths, "(784, 10)")
        layers: list[nn.Module] = []
        for source, target in pairwise(widths):
            layers.append(nn.Linear(source, target))
            if norm != "none":
                layers.append(build_norm(norm, target, is_image=False))
            layers.append(build_activation(activation))
        last = max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
        self.layers = nn.Sequential(*layers[: last + 1])

    @override
    def forward(self, inputs: Float[Tensor, "B *shape"]) -> Float[Tensor, "B outputs"]:
        """Return the last layer's outputs, without an activation."""
        return self.layers(inputs.flatten(1))


def check_widths(owner: str, widths: tuple[int, ...], example: str) -> None:
    """Raise ValueError unless there are inputs and outputs."""
    if len(widths) < 2:
        raise ValueError(
            f"{owner} needs the width of its inputs and of its outputs; got "
            f"widths={widths}. Pass at least two, such as widths={example}."
        )
