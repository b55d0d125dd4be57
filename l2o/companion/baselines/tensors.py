"""Scaling of whole tensors before and after a baseline."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from l2o.graph import NeuralGraph


class Standardise(nn.Module):
    """Subtracts each tensor's mean and divides by its deviation, one number per tensor.

    Before `fit` it is the identity.

    Args:
        graph: the architecture.
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, graph: NeuralGraph) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(len(graph.shapes)))
        self.register_buffer("deviations", torch.ones(len(graph.shapes)))

    @torch.no_grad()
    def fit(self, params: Mapping[str, Tensor]) -> None:
        """Take means and deviations from these networks, `[network, *shape]` each."""
        for index, values in enumerate(params.values()):
            deviation = values.std(correction=0)
            self.means[index] = values.mean()
            self.deviations[index] = torch.where(deviation > 0, deviation, 1.0)

    def forward(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the standardised tensors."""
        return {
            name: (values - mean) / deviation
            for (name, values), mean, deviation in zip(
                params.items(), self.means, self.deviations, strict=True
            )
        }


class LearnedScale(nn.Module):
    """Multiplies each tensor by a learned number, initially small.

    Args:
        graph: the architecture.
        start: initial value.
    """

    def __init__(self, graph: NeuralGraph, start: float = 0.01) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.full((len(graph.shapes),), start))

    def forward(self, updates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the scaled tensors."""
        pairs = zip(updates.items(), self.scales, strict=True)
        return {name: values * scale for (name, values), scale in pairs}


def flatten(params: Mapping[str, Tensor]) -> Tensor:
    """Return `[network, entry]`: all tensors, one after another."""
    return torch.cat([values.flatten(1) for values in params.values()], dim=1)


def perceptron(
    inputs: int, width: int, layers: int, outputs: int, dropout: float = 0.0
) -> nn.Sequential:
    """Return linear layers with ReLU and dropout after each but the last."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*modules, nn.Linear(inputs, outputs))
