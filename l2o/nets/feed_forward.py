"""The per-entry network: FF by itself, and the last stage of the graph networks."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from typing_extensions import override

from l2o.graph import NeuralGraph
from l2o.graph.tiles import EdgeTile, NodeTile

from .config import FeedForwardConfig
from .entries import Entries, at_owners
from .fast_ops import Pointwise, add, add_product, linear, linear_by_channel
from .net import NetSizes
from .thread_map import thread_map

_COLUMNS = 2**14
"""Entries per thread that pass all layers at a time without autograd, so that their
states fit in a cache."""


class FeedForward(nn.Module):
    """A multi-layer perceptron from the features of one entry to its outputs.

    Inputs that many entries share (the tensor's context, the edge state of all cells
    of a kernel) enter the first layer as separate summands, so that they are never
    copied to every entry.

    Args:
        config: width, depth and activation.
        sizes: channels in and out.
        num_structure: channels of the graph state; 0 for none.

    Reference:
        Metz et al., 2019, "Understanding and correcting pathologies in the training
        of learned optimizers", https://arxiv.org/abs/1810.10180.
    """

    def __init__(
        self, config: FeedForwardConfig, sizes: NetSizes, *, num_structure: int = 0
    ) -> None:
        super().__init__()
        fan_in = sizes.num_features + sizes.num_context + num_structure
        self.first = nn.Linear(sizes.num_features, config.width)
        self.from_context = sizes.from_context(config.width)
        self.from_structure = (
            nn.Linear(num_structure, config.width, bias=False)
            if num_structure
            else None
        )
        for layer in (self.first, self.from_context, self.from_structure):
            if layer is not None:
                nn.init.uniform_(layer.weight, -(fan_in**-0.5), fan_in**-0.5)
        self.hidden = nn.ModuleList(
            nn.Linear(config.width, config.width) for _ in range(config.layers - 1)
        )
        if config.init == "kaiming":
            for layer in self.linears:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.last = nn.Linear(config.width, sizes.num_outputs)
        self.activation = Pointwise(config.activation)

    def forward(
        self,
        features: Tensor,
        context: Tensor,
        structure: Tensor | None = None,
        mix: nn.Linear | None = None,
    ) -> Tensor:
        """Return `num_outputs` numbers per entry.

        It is fastest where features and outputs lie channel by channel in memory.

        Args:
            features: `[*edges, cell, num_features]`.
            context: broadcasts to `[*edges, cell, num_context]`; ignored where the
                network takes none.
            structure: broadcasts to `[*edges, cell, num_structure]`.
            mix: a linear map of `structure` before the network's own; None for none.
                The two are multiplied first.

        Returns:
            `[*edges, cell, num_outputs]`.
        """
        entries = features.movedim(-1, 0).flatten(1, -2)
        shared = self._shared(context, structure, mix)
        cells = 1 if shared.ndim == 1 else shared.shape[-2]
        grid = *features.shape[:-2], cells, shared.shape[-1]
        shared = shared.expand(grid).flatten(0, -3)
        edges, cells = entries.shape[1:]
        step = edges
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            step = max(1, _COLUMNS * torch.get_num_threads() // cells)
        pieces = [
            self._through(
                entries[:, start : start + step], shared[start : start + step]
            )
            for start in range(0, edges, step)
        ]
        outputs = torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]
        return outputs.view(-1, *features.shape[:-1]).movedim(0, -1)

    def zero_last(self) -> None:
        """Make every output zero, whatever the input."""
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def _through(self, entries: Tensor, shared: Tensor) -> Tensor:
        """Return `[output, entry]`.

        Args:
            entries: `[feature, edge, cell]`.
            shared: `[edge, cell, width]`, with one cell if all take the same.
        """
        grid = shared.expand(*entries.shape[1:], -1)
        start = grid.clone(memory_format=torch.contiguous_format).flatten(0, 1)
        hidden = add_product(start, entries.flatten(1).T, self.first.weight.T)
        hidden = self.activation(hidden)
        for layer in self.linears:
            hidden = self.activation(linear(hidden, layer.weight, layer.bias))
        return linear_by_channel(self.last.weight, hidden.T, self.last.bias)

    @property
    def linears(self) -> list[nn.Linear]:
        """The layers between the first and the last, in order."""
        return [layer for layer in self.hidden if isinstance(layer, nn.Linear)]

    def _shared(
        self, context: Tensor, structure: Tensor | None, mix: nn.Linear | None
    ) -> Tensor:
        """Return what broadcasts to the first layer's `[*entries, width]`."""
        shared = self.first.bias
        if self.from_context is not None:
            shared = shared + self.from_context(context)
        if self.from_structure is None:
            return shared
        assert structure is not None
        weight = self.from_structure.weight
        if mix is not None:
            shared = shared + weight @ mix.bias
            weight = weight @ mix.weight
        return add(linear(structure, weight), shared)


class AbstractEntryNet(nn.Module, ABC):
    """A `Net` whose last stage is the per-entry network `entry`."""

    entry: FeedForward

    @abstractmethod
    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the network cannot read this graph."""

    @abstractmethod
    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry and write its outputs.

        Args:
            graph: the optimizee's graph.
            entries: where features come from and outputs go.
            context: `[tensor, num_context]`, in the order of `graph.shapes`.
        """

    def zero_last(self) -> None:
        """Make every output zero, whatever the input."""
        self.entry.zero_last()


class FeedForwardNet(AbstractEntryNet):
    """FF: the per-entry network alone; it does not read the graph.

    Args:
        config: sizes.
        sizes: channels in and out.
    """

    def __init__(self, config: FeedForwardConfig, sizes: NetSizes) -> None:
        super().__init__()
        self.entry = FeedForward(config, sizes)

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Accept every graph."""

    @override
    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry and write its outputs."""

        def write(tile: EdgeTile | NodeTile) -> None:
            shared = at_owners(context, tile)
            entries.write(tile, self.entry(entries.read(tile), shared))

        thread_map(write, entries.tiles.owned, context.device)
