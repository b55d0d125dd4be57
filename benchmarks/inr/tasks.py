"""What networks on networks are trained for: naming a class, editing an image."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from l2o.companion import NetworkBatch, layered_graph, stack_networks
from optimizees.siren import render_images, siren_shapes
from optimizees.zoo.inr_set import InrSet

GRAPH = layered_graph(siren_shapes(), activations=("sin", "sin"))
"""The neural graph of every network here."""
EVALUATED = 100
"""Networks that are evaluated at a time."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How good a network is on a set."""

    loss: float
    """Mean loss, in the unit of the task."""
    score: float
    """What selects: more is better."""
    accuracy: float | None
    """Share of the networks whose class is named; None where there are no classes."""


class AbstractInrTask(ABC):
    """A loss on batches of networks, each of which is an image."""

    unit: str
    """Of the loss."""

    @abstractmethod
    def losses(
        self, model: nn.Module, batch: NetworkBatch, wanted: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss of each network, and whether its class was named.

        Args:
            model: what is trained.
            batch: networks.
            wanted: what `targets` gave for them.
        """

    @abstractmethod
    def targets(self, data: InrSet) -> Tensor:
        """Return what is wanted of each network, with a leading axis N."""

    @torch.no_grad()
    def evaluate(self, model: nn.Module, data: InrSet) -> Measure:
        """Measure a model on a set, without dropout and without augmentation."""
        was_training = model.training
        model.eval()
        losses, hits = [], []
        for batch, wanted in in_parts(data.networks, self.targets(data), EVALUATED):
            loss, hit = self.losses(model, batch, wanted)
            losses.append(loss)
            if hit is not None:
                hits.append(hit)
        model.train(was_training)
        loss = float(torch.cat(losses).double().mean())
        if not hits:
            return Measure(loss=loss, score=-loss, accuracy=None)
        accuracy = float(torch.cat(hits).double().mean())
        return Measure(loss=loss, score=accuracy, accuracy=accuracy)


class Classification(AbstractInrTask):
    """Name the class of the image that a network stands for."""

    unit = "nats"

    @override
    def targets(self, data: InrSet) -> Tensor:
        return data.labels

    @override
    def losses(
        self, model: nn.Module, batch: NetworkBatch, wanted: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        logits = model(batch)
        loss = functional.cross_entropy(logits, wanted, reduction="none")
        return loss, logits.argmax(1) == wanted


class Editing(AbstractInrTask):
    """Change a network so that the lines of its image grow by a pixel on each side."""

    unit = "mean squared error"

    @override
    def targets(self, data: InrSet) -> Tensor:
        if data.images is None:
            raise ValueError(
                "inr-editing needs the images that networks were fitted to; got none "
                f"with {data.source}. Use what `l2o data siren-fits` makes."
            )
        return dilate(data.images / 255)

    @override
    def losses(
        self, model: nn.Module, batch: NetworkBatch, wanted: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        shown = render_images(edit(model, batch))
        return (shown - wanted).square().mean((1, 2)), None


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


def in_parts(
    networks: dict[str, Tensor], wanted: Tensor, size: int
) -> Iterator[tuple[NetworkBatch, Tensor]]:
    """Yield networks, as the graph networks take them, and what is wanted of them.

    Args:
        networks: parameters by name.
        wanted: one entry a network.
        size: networks a part.
    """
    batch = stack_networks(GRAPH, networks)
    yield from zip(batch.split(size), wanted.split(size), strict=True)
