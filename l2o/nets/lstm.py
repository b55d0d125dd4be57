"""LSTM: one recurrent network over the tensors, one perceptron for their entries."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from l2o.graph import NeuralGraph, derived

from .config import LSTMConfig
from .entries import Entries, at_owners
from .feed_forward import AbstractEntryNet, FeedForward
from .net import NetSizes


class LSTMNet(AbstractEntryNet):
    r"""Reads the tensors of a network as a sequence, in the order of its parameters.

    .. math::
        x_t = W_2 \\mathrm{mean}_i \\, relu(W_1 f_{t,i}), \\quad
        h_t, c_t = LSTM(x_t, h_{t-1}, c_{t-1}), \\quad
        o_{t,i} = FF(f_{t,i}, h_t)

    with features :math:`f_{t,i}` of entry i of tensor t. The state starts at zero in
    every step, so that nothing is remembered from one step to the next. It sees no
    neurons: entries of one tensor are all alike to it.

    Args:
        config: sizes.
        sizes: channels in and out.

    Reference:
        Kofinas et al., 2024, section 4.3; Metz et al., 2020, "Tasks, stability,
        architecture, and compute", https://arxiv.org/abs/2009.11243. The contexts are
        ours; the paper's features have none.
    """

    def __init__(self, config: LSTMConfig, sizes: NetSizes) -> None:
        super().__init__()
        width = config.width
        self.first = nn.Linear(sizes.num_features, width)
        self.second = nn.Linear(width, width)
        self.context_in = sizes.from_context(width)
        self.cell = nn.LSTMCell(width, width)
        self.entry = FeedForward(config.head, sizes, num_structure=width)

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Accept every graph."""
        _num_entries(graph, self.first.weight.dtype, self.first.weight.device)

    @override
    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry twice and write its outputs."""
        tiles = entries.tiles.owned
        total = context.new_zeros(len(graph.shapes), self.first.out_features)
        for tile in tiles:
            hidden = self.first(entries.read(tile)).relu()
            total = total.index_add(0, tile.owner, hidden.flatten(1, -2).sum(1))
        means = self.second(
            total / _num_entries(graph, total.dtype, total.device)[:, None]
        )
        if self.context_in is not None:
            means = means + self.context_in(context)
        states = self.read_in_order(means)
        for tile in tiles:
            own, state = at_owners(context, tile), at_owners(states, tile)
            entries.write(tile, self.entry(entries.read(tile), own, state))

    def read_in_order(self, means: Tensor) -> Tensor:
        """Return the hidden state after each tensor, `[tensor, width]`."""
        # nn.LSTMCell's own call knows no vmap.
        cell = self.cell
        hidden = memory = means.new_zeros(1, means.shape[-1])
        found = []
        for own in F.linear(means, cell.weight_ih, cell.bias_ih).split(1):
            gates = own + F.linear(hidden, cell.weight_hh, cell.bias_hh)
            enter, keep, new, leave = gates.chunk(4, dim=-1)
            memory = keep.sigmoid() * memory + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * memory.tanh()
            found.append(hidden)
        return torch.cat(found)


@derived
def _num_entries(
    graph: NeuralGraph, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return how many entries each tensor has."""
    counts = [float(max(prod(shape), 1)) for shape in graph.shapes.values()]
    return torch.tensor(counts, dtype=dtype, device=device)
