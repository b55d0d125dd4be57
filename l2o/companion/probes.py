"""Probe features: what the neurons of a trained network do with learned inputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from l2o.graph import NeuralGraph

from .batch import NetworkBatch
from .config import InputsConfig
from .roles import layer_rows

Evaluate: TypeAlias = Callable[
    [NeuralGraph, Mapping[str, Tensor], Tensor], Sequence[Tensor]
]
"""Runs stacked networks on shared inputs: `(graph, params, points)`, an architecture,
name to `[network, *shape]` and `[point, input, *position]`, to the values of each
neuron group in the graph's order, inputs and outputs included, `[network, point,
neuron]` each. `ModuleValues` does it for modules."""


class Probes(nn.Module):
    """Learned inputs; the values that neurons take on them, as node features.

    Args:
        config: how many probes, and the sizes of the networks.
        width: channels of a node state.
        evaluate: how to run the networks, with their parameters as they are.

    Raises:
        ValueError: if there is no way to run the networks.

    Reference:
        Kofinas et al., 2024, Eq. 2. As in their code, features are added, not appended.
    """

    def __init__(
        self, config: InputsConfig, *, width: int, evaluate: Evaluate | None
    ) -> None:
        super().__init__()
        if evaluate is None:
            raise ValueError(
                f"InputsConfig(num_probes={config.num_probes}) needs a way to run the "
                "networks; got evaluate=None. Pass ModuleValues((graph, module)), "
                "another function of that kind, or num_probes=0."
            )
        self.config = config
        self.evaluate = evaluate
        shape = config.num_probes, config.num_inputs, *config.probe_shape
        points = 2 * torch.rand(shape) - 1
        self.points = nn.Parameter(points)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(config.num_probes, width), nn.LayerNorm(width))
            for _ in range(config.num_hidden + 2)
        )

    def forward(self, batch: NetworkBatch) -> Tensor:
        """Return what the probes add to each neuron, `[neuron, width]`.

        Raises:
            ValueError: if `evaluate` returns values of other shapes.
        """
        found = []
        for stack in batch.stacks:
            values = self.evaluate(stack.graph, stack.params, self.points)
            groups = stack.graph.groups
            wanted = [(len(stack), len(self.points), group.size) for group in groups]
            if [tuple(value.shape) for value in values] != wanted:
                raise ValueError(
                    "evaluate must return [network, point, neuron] for every group, "
                    f"{wanted}; got {[tuple(value.shape) for value in values]}. Return "
                    "inputs, each hidden layer after its activation, and outputs."
                )
            rows = layer_rows(stack.graph, self.config)
            seen = [
                self.layers[row](value.transpose(1, 2))
                for row, value in zip(rows, values, strict=True)
            ]
            found.append(torch.cat(seen, dim=1).flatten(0, 1))
        return torch.cat(found)
