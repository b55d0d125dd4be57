"""NG-GNN neuron by neuron: no hidden state belongs to an entry.

The network reads statistics of rows, columns and whole matrices. Messages between
neurons are products with the weight matrices, whose entries are the edges. So a step
costs little more than reading the entries a few times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import NeuronGNNConfig
from .fast_ops import add_product, in_plain_eager

Exchange: TypeAlias = Callable[[Tensor], Tensor]
"""Sends messages through all matrices. Takes what neurons say, `[side, channel, neuron
+ 1, message]`: side 0 is for the rows that a neuron's columns meet, side 1 for the
columns that its rows meet; the last neuron is padding. Returns what arrives at each
line, a mean weighted by the edges: `[line, channel, message]`."""


@dataclass(frozen=True, slots=True)
class NeuronWiring:
    """What the network needs to know of a graph, without any values.

    A *line* is a row or a column of a matrix; rows of all matrices come first. A place
    is `2 * number + side`, with side 0 for rows and 1 for columns.
    """

    neuron: Tensor
    """`[line]`: the neuron that a line belongs to; the number of neurons where it is
    padding or belongs to none."""
    matrix: Tensor
    """`[line]`: its matrix; the number of matrices for padding."""
    neuron_place: Tensor
    """`[line]`: place of the neuron."""
    matrix_place: Tensor
    """`[line]`: place of the matrix."""
    per_neuron: Tensor
    """`[2 * (neuron + 1), 1]`: one over the number of lines at each place."""
    per_matrix: Tensor
    """`[2 * (matrix + 1), 1]`: one over the number of lines at each place."""
    sides: Tensor
    """`[line, 2]`: which side a line is, one-hot."""
    neurons: Tensor
    """`[neuron + 1, static]`: role, depth and size of the group."""
    tied: Tensor
    """`[sender]`: the neurons that edges without weights leave, in either direction."""
    senders: Tensor
    """`[tie]`: for both directions of every edge without weights, place in `tied` and
    kind as `place * kinds + kind`."""
    receivers: Tensor
    """`[tie]`: the receiver's number."""
    per_receiver: Tensor
    """`[neuron + 1, 1]`: one over the number of ties that reach a neuron."""


class NeuronFeatures(NamedTuple):
    """What the network reads."""

    lines: Tensor
    """`[line, line feature]`."""
    matrices: Tensor
    """`[matrix + 1, matrix feature]`; the last row is padding."""


class NeuronOutputs(NamedTuple):
    """What the network says; all zeros from a new network."""

    lines: Tensor
    """`[line]`."""
    matrices: Tensor
    """`[matrix + 1, output]`."""


class NeuronGNNLayer(nn.Module):
    """One round of messages: between rows and columns, and along ties.

    Args:
        config: sizes.
        num_channels: edge channels of a matrix.
        num_tie_kinds: kinds of edges without weights, each direction counted.
    """

    def __init__(
        self, config: NeuronGNNConfig, *, num_channels: int, num_tie_kinds: int
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.message_width = config.message_width
        self.say = nn.Linear(config.width, 2 * num_channels * config.message_width)
        self.say_to_ties = nn.Linear(config.width, num_tie_kinds * config.message_width)
        arriving = (2 * num_channels + 1) * config.message_width
        self.hear = nn.Linear(config.width + arriving, config.width)
        self.change = nn.Linear(config.width, config.width)

    def forward(
        self, nodes: Tensor, wiring: NeuronWiring, exchange: Exchange
    ) -> Tensor:
        """Return the next state of every neuron, `[neuron + 1, width]`."""
        heard = exchange(self._said(nodes)).flatten(1)
        weighted = mean_at(heard, wiring.neuron_place, wiring.per_neuron)
        del heard
        inbox = [nodes, weighted.view(len(nodes), -1)]
        if len(wiring.senders):  # without ties nothing comes, as if all sent zeros
            inbox.append(self._tied(nodes, wiring))
        return nodes + self.change(_silu(_of_parts(self.hear, *inbox)))

    def _said(self, nodes: Tensor) -> Tensor:
        """Return messages for lines, `[side, channel, neuron + 1, message]`."""
        said = self.say(nodes).view(len(nodes), 2, self.num_channels, -1)
        return said.permute(1, 2, 0, 3)

    def _tied(self, nodes: Tensor, wiring: NeuronWiring) -> Tensor:
        """Return what arrives along ties, `[neuron + 1, message]`."""
        said = self.say_to_ties(nodes.index_select(0, wiring.tied))
        said = said.view(-1, self.message_width)
        said = said.index_select(0, wiring.senders)
        return mean_at(said, wiring.receivers, wiring.per_receiver)


class NeuronGNN(nn.Module):
    """Reads lines and matrices, passes messages between neurons, writes both.

    Args:
        config: sizes.
        num_line_features: features per row or column.
        num_matrix_features: features per matrix.
        num_static: static features per neuron.
        num_channels: edge channels of a matrix.
        num_tie_kinds: kinds of edges without weights, each direction counted.
        num_outputs: outputs per matrix.
    """

    def __init__(
        self,
        config: NeuronGNNConfig,
        *,
        num_line_features: int,
        num_matrix_features: int,
        num_static: int,
        num_channels: int,
        num_tie_kinds: int,
        num_outputs: int,
    ) -> None:
        super().__init__()
        width = config.width
        self.matrix_in = nn.Linear(num_matrix_features, width)
        self.matrix_mix = nn.Linear(width, width)
        self.line_in = nn.Linear(num_line_features + 2 + width, width)
        self.neuron_in = nn.Linear(num_static + 2 * width, width)
        self.layers = nn.ModuleList(
            NeuronGNNLayer(
                config, num_channels=num_channels, num_tie_kinds=num_tie_kinds
            )
            for _ in range(config.layers)
        )
        self.line_out = _ReadOut(2 * width + 2, width, 1)
        self.matrix_out = _ReadOut(3 * width, width, num_outputs)

    def forward(
        self, wiring: NeuronWiring, features: NeuronFeatures, exchange: Exchange
    ) -> NeuronOutputs:
        """Return the outputs of every row, column and matrix.

        Args:
            wiring: the graph.
            features: of the lines and matrices of the wiring.
            exchange: sends messages through the matrices.
        """
        matrices = self.matrix_mix(F.silu(self.matrix_in(features.matrices)))
        by_line = self.line_in, features.lines, matrices, wiring.matrix_place
        lines = _silu(_with_owners(*by_line))
        first = mean_at(lines, wiring.neuron_place, wiring.per_neuron)
        first = first.view(len(wiring.neurons), -1)
        nodes = _silu(_of_parts(self.neuron_in, wiring.neurons, first))
        del first
        for layer in self.layers:
            nodes = layer(nodes, wiring, exchange)
        hidden = _with_owners(self.line_out.hidden, lines, nodes, wiring.neuron_place)
        del lines
        said = self.line_out.last(_silu(hidden)).squeeze(-1)
        del hidden
        ends = nodes.index_select(0, wiring.neuron)
        pooled = mean_at(ends, wiring.matrix_place, wiring.per_matrix)
        pooled = pooled.view(len(matrices), -1)
        return NeuronOutputs(said, self.matrix_out(torch.cat([matrices, pooled], -1)))


class _ReadOut(nn.Module):
    """Two layers, the last one zero at first."""

    def __init__(self, num_inputs: int, width: int, num_outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_inputs, width)
        self.last = nn.Linear(width, num_outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, values: Tensor) -> Tensor:
        return self.last(F.silu(self.hidden(values)))


def _of_parts(layer: nn.Linear, *parts: Tensor) -> Tensor:
    """Return `layer(cat(parts, -1))` without making that tensor.

    Args:
        layer: where it has more inputs, the last of them are taken as zeros.
        *parts: `[item, input]` each.
    """
    widths = [part.shape[-1] for part in parts]
    rest = layer.in_features - sum(widths)
    first, *others = layer.weight.split([*widths, rest], dim=1)[: len(parts)]
    found = F.linear(parts[0], first, layer.bias)
    for part, weight in zip(parts[1:], others, strict=True):
        found = add_product(found, part, weight.T)
    return found


def _with_owners(
    layer: nn.Linear, lines: Tensor, owners: Tensor, places: Tensor
) -> Tensor:
    """Return a layer of lines, their sides and what owns them, `[line, output]`.

    That is `layer(cat([lines, sides, owners[places // 2]]))`; what owners add is
    computed once per owner and side, so that no such tensor is made.

    Args:
        layer: its inputs are a line's, two for the side, and the owner's.
        lines: `[line, input]`.
        owners: `[owner, input]`.
        places: `[line]`, `2 * owner + side`.
    """
    own = lines.shape[-1]
    sides = layer.weight[:, own : own + 2].T
    shared = F.linear(owners, layer.weight[:, own + 2 :], layer.bias)
    shared = (shared[:, None] + sides).flatten(0, 1).index_select(0, places)
    return add_product(shared, lines, layer.weight[:, :own].T)


def _silu(values: Tensor) -> Tensor:
    """Return SiLU of a tensor of ours, written over where that is allowed."""
    return F.silu(values, inplace=not torch.is_grad_enabled())


def mean_at(values: Tensor, place: Tensor, share: Tensor) -> Tensor:
    """Return the mean of the values that go to each place, zero where none does.

    Args:
        values: `[item, channel]`.
        place: `[item]`.
        share: `[place, 1]`, one over the number of items of each place.

    Returns:
        `[place, channel]`.
    """
    total = values.new_zeros(len(share), values.shape[-1])
    if in_plain_eager():
        return total.index_add_(0, place, values).mul_(share)
    return total.index_add(0, place, values) * share
