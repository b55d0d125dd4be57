"""Baselines on unstructured entries: MLP and Set NN."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from l2o.graph import NeuralGraph

from .config import MLPConfig, SetNNConfig
from .tensors import flatten, perceptron


class MLPBody(nn.Module):
    """All parameters in one vector; the order of the neurons matters to it.

    Args:
        config: width and depth.
        graph: the architecture.
        num_outputs: numbers per network; None for one per parameter entry.
    """

    def __init__(
        self, config: MLPConfig, graph: NeuralGraph, num_outputs: int | None
    ) -> None:
        super().__init__()
        self.shapes = dict(graph.shapes)
        count = graph.num_parameters
        outputs = count if num_outputs is None else num_outputs
        self.layers = perceptron(
            count, config.width, config.layers, outputs, config.dropout
        )

    def forward(self, params: Mapping[str, Tensor]) -> Tensor:
        """Return `[network, output]`."""
        return self.layers(flatten(params))

    def edit(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one number per entry, name to `[network, *shape]`."""
        sizes = [prod(shape) for shape in self.shapes.values()]
        pieces = self(params).split(sizes, dim=1)
        return {
            name: piece.unflatten(1, shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }


class SetNNBody(nn.Module):
    """The mean over a network's entries of a perceptron of each.

    Any entries may change places within their tensor, far more than the neurons
    allow, so it cannot know which weights share a neuron.

    Args:
        config: sizes.
        graph: the architecture.
        num_outputs: numbers per network.

    Reference:
        Zaheer et al., 2017, "Deep Sets", https://arxiv.org/abs/1703.06114.
    """

    tensor_of_entry: Tensor

    def __init__(
        self, config: SetNNConfig, graph: NeuralGraph, num_outputs: int
    ) -> None:
        super().__init__()
        counts = torch.tensor([prod(shape) for shape in graph.shapes.values()])
        places = torch.arange(len(counts)).repeat_interleave(counts)
        self.register_buffer("tensor_of_entry", places, persistent=False)
        self.value = nn.Linear(1, config.width)
        self.tensor = (
            nn.Embedding(len(counts), config.width) if config.with_tensors else None
        )
        rest = [
            layer
            for _ in range(config.layers - 1)
            for layer in (nn.Linear(config.width, config.width), nn.ReLU())
        ]
        self.entry = nn.Sequential(nn.ReLU(), *rest)
        self.head = perceptron(config.width, config.head_width, 1, num_outputs)

    def forward(self, params: Mapping[str, Tensor]) -> Tensor:
        """Return `[network, output]`."""
        values = self.value(flatten(params)[..., None])
        if self.tensor is not None:
            values = values + self.tensor(self.tensor_of_entry)
        return self.head(self.entry(values).mean(1))
