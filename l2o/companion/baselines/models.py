"""Baselines with the interface of the graph networks: classify, edit, predict."""

from typing import assert_never

import torch
from torch import Tensor, nn

from l2o.companion.batch import NetworkBatch, NetworkStack
from l2o.companion.predictor import AbstractPredictor
from l2o.graph import NeuralGraph

from .config import (
    BaselineConfig,
    DWSNetConfig,
    EditorConfig,
    FunctionalConfig,
    MLPConfig,
    SetNNConfig,
    StatNNConfig,
)
from .equivariant import EquivariantBody, build_equivariant
from .flat import MLPBody, SetNNBody
from .statistics import StatNNBody
from .tensors import LearnedScale, Standardise


class BaselineClassifier(nn.Module):
    """From trained networks to logits, without the neural graph.

    All but StatNN read one architecture, for which they are built.

    Args:
        config: kind and sizes of the baseline.
        graph: the architecture; StatNN takes its layers from each network instead.
        num_classes: numbers per network.

    Raises:
        ValueError: if the baseline cannot read this architecture.

    Example:
        >>> import l2o, torch
        >>> from l2o.companion import layered_graph, stack_networks
        >>> graph = layered_graph({"0.weight": (4, 2), "1.weight": (1, 4)})
        >>> model = BaselineClassifier(DWSNetConfig(), graph, num_classes=10)
        >>> params = {name: torch.zeros(5, *s) for name, s in graph.shapes.items()}
        >>> model(stack_networks(graph, params)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self, config: BaselineConfig, graph: NeuralGraph, *, num_classes: int
    ) -> None:
        super().__init__()
        self.graph = graph
        self.standardise = Standardise(graph)
        self.body = _build_body(config, graph, num_classes)

    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Fit the standardisation of tensors on these networks; StatNN has none.

        Args:
            batch: networks of the training set.
        """
        if not isinstance(self.body, StatNNBody):
            self.standardise.fit(_same(batch, self.graph).params)

    def forward(self, batch: NetworkBatch) -> Tensor:
        """Return logits, `[network, class]`.

        Raises:
            ValueError: if the networks have another architecture.
        """
        if isinstance(self.body, StatNNBody):
            found = [self.body(stack.graph, stack.params) for stack in batch.stacks]
            positions = torch.cat([stack.positions for stack in batch.stacks])
            return torch.cat(found)[positions.argsort()]
        return self.body(self.standardise(_same(batch, self.graph).params))


class BaselinePredictor(AbstractPredictor[BaselineClassifier]):
    """From trained networks to one number in (0, 1) each, such as their accuracy.

    Args:
        config: kind and sizes of the baseline.
        graph: the architecture; StatNN takes its layers from each network instead.

    Raises:
        ValueError: if the baseline cannot read this architecture.
    """

    def __init__(self, config: BaselineConfig, graph: NeuralGraph) -> None:
        super().__init__(BaselineClassifier(config, graph, num_classes=1))


class BaselineEditor(nn.Module):
    """From trained networks to updates of their parameters.

    Args:
        config: kind and sizes of the baseline.
        graph: the architecture.

    Raises:
        ValueError: if the baseline cannot read this architecture.
    """

    def __init__(self, config: EditorConfig, graph: NeuralGraph) -> None:
        super().__init__()
        self.graph = graph
        self.standardise = Standardise(graph)
        self.body = _build_editor(config, graph)
        self.scale = LearnedScale(graph)

    def fit_statistics(self, batch: NetworkBatch) -> None:
        """Fit the standardisation of the input tensors on these networks."""
        self.standardise.fit(_same(batch, self.graph).params)

    def forward(self, batch: NetworkBatch) -> dict[str, Tensor]:
        """Return the update of each parameter, name to `[network, *shape]`.

        Raises:
            ValueError: if the networks have another architecture.
        """
        params = self.standardise(_same(batch, self.graph).params)
        return self.scale(self.body.edit(params))


def _build_body(
    config: BaselineConfig, graph: NeuralGraph, num_outputs: int
) -> MLPBody | SetNNBody | EquivariantBody | StatNNBody:
    match config:
        case MLPConfig():
            return MLPBody(config, graph, num_outputs)
        case SetNNConfig():
            return SetNNBody(config, graph, num_outputs)
        case DWSNetConfig() | FunctionalConfig():
            return build_equivariant(config, graph, num_outputs)
        case StatNNConfig():
            return StatNNBody(config, num_outputs)
        case _:
            assert_never(config)


def _build_editor(
    config: EditorConfig, graph: NeuralGraph
) -> MLPBody | EquivariantBody:
    if isinstance(config, MLPConfig):
        return MLPBody(config, graph, None)
    return build_equivariant(config, graph, None)


def _same(batch: NetworkBatch, graph: NeuralGraph) -> NetworkStack:
    """Return the only stack of a batch, if it has this architecture."""
    if len(batch.stacks) != 1 or batch.stacks[0].graph.shapes != graph.shapes:
        raise ValueError(
            "A baseline needs networks of the one architecture it was built for; got "
            f"{[stack.graph.shapes for stack in batch.stacks]} for {graph.shapes}. "
            "Use NG-GNN, NG-T or StatNN for networks that differ."
        )
    return batch.stacks[0]
