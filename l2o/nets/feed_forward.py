"""The per-parameter network: FF by itself, and the last stage of the graph networks."""

import torch
from torch import Tensor, nn

from l2o.graph import NeuralGraph
from l2o.graph.tiles import NodeTile

from .config import Activation, FeedForwardConfig
from .entries import Entries


def build_activation(name: Activation) -> nn.Module:
    """Return the pointwise function of that name."""
    return nn.ReLU() if name == "relu" else nn.SiLU()


class FeedForward(nn.Module):
    """A multi-layer perceptron from the features of one entry to two numbers.

    Inputs that many entries share (the tensor's context, the edge state of all cells
    of a kernel) enter the first layer as separate summands, so that they are never
    copied out to every entry.

    Args:
        config: width, depth and activation.
        num_features: channels an entry.
        num_outputs: numbers to return an entry.
        num_context: channels a tensor; 0 for none.
        num_structure: channels of the graph state; 0 for none.

    Reference:
        Metz et al., 2019, "Understanding and correcting pathologies in the training
        of learned optimizers", https://arxiv.org/abs/1810.10180.
    """

    def __init__(
        self,
        config: FeedForwardConfig,
        *,
        num_features: int,
        num_outputs: int,
        num_context: int = 0,
        num_structure: int = 0,
    ) -> None:
        super().__init__()
        fan_in = num_features + num_context + num_structure
        self.first = nn.Linear(num_features, config.width)
        self.from_context = _shared_input(num_context, config.width)
        self.from_structure = _shared_input(num_structure, config.width)
        for layer in (self.first, self.from_context, self.from_structure):
            if layer is not None:
                nn.init.uniform_(layer.weight, -(fan_in**-0.5), fan_in**-0.5)
        self.hidden = nn.ModuleList(
            nn.Linear(config.width, config.width) for _ in range(config.layers - 1)
        )
        self.last = nn.Linear(config.width, num_outputs)
        self.activation = build_activation(config.activation)

    def forward(
        self, features: Tensor, context: Tensor, structure: Tensor | None = None
    ) -> Tensor:
        """Return `num_outputs` numbers an entry.

        Args:
            features: `[*entries, num_features]`.
            context: broadcasts to `[*entries, num_context]`; ignored where the network
                takes none.
            structure: broadcasts to `[*entries, num_structure]`.

        Returns:
            `[*entries, num_outputs]`.
        """
        shared = self.first.bias
        if self.from_context is not None:
            shared = shared + self.from_context(context)
        if self.from_structure is not None:
            assert structure is not None
            shared = shared + self.from_structure(structure)
        hidden = self.activation(features @ self.first.weight.T + shared)
        for layer in self.hidden:
            hidden = self.activation(layer(hidden))
        return self.last(hidden)


def _shared_input(channels: int, width: int) -> nn.Linear | None:
    return nn.Linear(channels, width, bias=False) if channels else None


class FeedForwardNet(nn.Module):
    """FF: the per-parameter network on every entry, blind to the graph."""

    def __init__(
        self,
        config: FeedForwardConfig,
        *,
        num_features: int,
        num_context: int,
        num_outputs: int,
    ) -> None:
        super().__init__()
        self.entry = FeedForward(
            config,
            num_features=num_features,
            num_context=num_context,
            num_outputs=num_outputs,
        )

    def check(self, graph: NeuralGraph) -> None:
        """Accept every graph."""

    def zero_last(self) -> None:
        """Make every output zero, whatever the input."""
        torch.nn.init.zeros_(self.entry.last.weight)
        torch.nn.init.zeros_(self.entry.last.bias)

    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry and write its outputs.

        Args:
            graph: the optimizee's graph.
            entries: where features come from and outputs go.
            context: `[tensor, num_context]`, in the order of `graph.shapes`.
        """
        for tile in (*entries.tiles.edges, *entries.tiles.nodes):
            if isinstance(tile, NodeTile) or tile.is_owned:
                features = entries.read(tile)
                shared = context.index_select(0, tile.owner)
                shape = (len(shared), *[1] * (features.ndim - 2), -1)
                entries.write(tile, self.entry(features, shared.reshape(shape)))
