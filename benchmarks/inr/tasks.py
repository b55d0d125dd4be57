"""What networks on networks are trained for: naming a class, editing an image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from l2o.companion import (
    AbstractObjective,
    Classification,
    NetworkBatch,
    NetworkSet,
    layered_graph,
    stack_networks,
)
from l2o.graph import NeuralGraph
from optimizees.siren import render_images, siren_shapes, siren_values
from optimizees.zoo.inr_set import InrSet

GRAPH = layered_graph(siren_shapes(), activations=("sin", "sin"))
"""The neural graph of every network here."""


def evaluate_sirens(
    graph: NeuralGraph, params: Mapping[str, Tensor], points: Tensor
) -> list[Tensor]:
    """Run SIRENs on probes, for `l2o.companion`.

    Args:
        graph: their graph, `GRAPH`.
        params: name to `[network, *shape]`.
        points: `[point, 2]`.
    """
    return siren_values(params, points)


@dataclass(frozen=True, kw_only=True)
class InrTask:
    """What a network on SIRENs, each of which is an image, is trained for."""

    objective: AbstractObjective
    """The loss."""
    unit: str
    """Of the loss."""
    targets: Callable[[InrSet], Tensor]
    """What is wanted of each network, with a leading axis N."""

    def read(self, data: InrSet) -> NetworkSet:
        """Return the networks of a set with their targets."""
        return NetworkSet(stack_networks(GRAPH, data.networks), self.targets(data))


class Editing(AbstractObjective):
    """Change a network so that its image becomes another."""

    @override
    def losses(self, model: nn.Module, batch: NetworkBatch, targets: Tensor) -> Tensor:
        return (render_images(edit(model, batch)) - targets).square().mean((1, 2))


def dilated_images(data: InrSet) -> Float[Tensor, "N H W"]:
    """Return the images with lines that are a pixel wider on each side.

    Raises:
        ValueError: if the images are not there.
    """
    if data.images is None:
        raise ValueError(
            "inr-editing needs the images that networks were fitted to; got none "
            f"with {data.source}. Use what `l2o data siren-fits` makes."
        )
    return dilate(data.images / 255)


CLASSIFICATION = InrTask(
    objective=Classification(), unit="nats", targets=lambda data: data.labels
)
"""Name the class of the image that a network stands for."""
EDITING = InrTask(
    objective=Editing(), unit="mean squared error", targets=dilated_images
)
"""Change a network so that the lines of its image grow by a pixel on each side."""


class Nothing(nn.Module):
    """The editor that leaves everything as it is."""

    @override
    def forward(self, batch: NetworkBatch) -> dict[str, Tensor]:
        """Return updates that are zero."""
        return {name: torch.zeros_like(weight) for name, weight in batch.params.items()}


def edit(model: nn.Module, batch: NetworkBatch) -> dict[str, Tensor]:
    """Return the parameters of networks after an editor's updates."""
    updates = model(batch)
    return {name: weight + updates[name] for name, weight in batch.params.items()}


def dilate(images: Float[Tensor, "N H W"]) -> Float[Tensor, "N H W"]:
    """Give each pixel the highest value among itself and its eight neighbours.

    Beyond the edge there is nothing: as OpenCV's `dilate` with 3 x 3 ones.

    Args:
        images: grey values.
    """
    return functional.max_pool2d(images.unsqueeze(1), 3, 1, padding=1).squeeze(1)
