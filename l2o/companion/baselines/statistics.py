"""StatNN: a perceptron on a few statistics of every tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.graph import NeuralGraph

from .config import StatNNConfig
from .tensors import perceptron

NUM_STATISTICS = 7
"""Mean, unbiased variance, minimum, three quartiles, maximum."""


class StatNNBody(nn.Module):
    """Statistics of weights and biases, layer by layer; zeros for absent layers.

    Args:
        config: sizes.
        num_outputs: numbers per network.

    Example:
        >>> net = StatNNBody(StatNNConfig(), 1)
        >>> sum(weight.numel() for weight in net.parameters())
        1087001

    Reference:
        Unterthiner et al., 2020, "Predicting Neural Network Accuracy from Weights",
        https://arxiv.org/abs/2002.11448.
    """

    def __init__(self, config: StatNNConfig, num_outputs: int) -> None:
        super().__init__()
        self.max_layers = config.max_layers
        self.layers = perceptron(
            2 * NUM_STATISTICS * config.max_layers,
            config.width,
            2,
            num_outputs,
            config.dropout,
        )

    def forward(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor:
        """Return `[network, output]` of networks of one architecture.

        Args:
            graph: the architecture.
            params: name to `[network, *shape]`.

        Raises:
            ValueError: if it has more layers than `max_layers`.
        """
        return self.layers(self.features(graph, params))

    def features(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor:
        """Return `[network, layer, weight or bias, statistic]`, flattened."""
        layers = layers_of(graph)
        if len(layers) > self.max_layers:
            raise ValueError(
                f"StatNN needs networks of at most {self.max_layers} layers; got one "
                f"of {len(layers)}. Raise StatNNConfig(max_layers=...)."
            )
        some = next(iter(params.values()))
        none = some.new_zeros(len(some), NUM_STATISTICS)
        found = [
            none if name is None else tensor_statistics(params[name])
            for layer in layers
            for name in layer
        ]
        features = torch.cat(found, dim=1)
        width = 2 * NUM_STATISTICS * self.max_layers
        return F.pad(features, (0, width - features.shape[1]))


def layers_of(graph: NeuralGraph) -> list[tuple[str, str | None]]:
    """Return weight and bias (or None) of each layer, in the order of the graph."""
    layers: list[tuple[str, str | None]] = []
    for name, shape in graph.shapes.items():
        if len(shape) > 1:
            layers.append((name, None))
        elif layers and layers[-1][1] is None:
            layers[-1] = (layers[-1][0], name)
        else:
            raise ValueError(
                "StatNN needs a weight and at most one bias per layer, in order; got a "
                f"vector {name!r} with no weight before it. Give the layers in order."
            )
    return layers


def tensor_statistics(values: Tensor) -> Tensor:
    """Return `[network, 7]`: mean, variance, minimum, quartiles, maximum.

    Args:
        values: `[network, *shape]`. A tensor of one entry has variance 0.
    """
    flat = values.flatten(1)
    ordered = flat.sort(dim=1).values
    places = torch.linspace(0, 1, 5, dtype=flat.dtype, device=flat.device)
    places = places * (flat.shape[1] - 1)
    below = places.floor().long()
    above = places.ceil().long()
    weight = (places - below).to(flat.dtype)
    quantiles = ordered[:, below].lerp(ordered[:, above], weight)
    correction = 1 if flat.shape[1] > 1 else 0
    spread = flat.var(dim=1, correction=correction)
    return torch.cat([flat.mean(1)[:, None], spread[:, None], quantiles], dim=1)
