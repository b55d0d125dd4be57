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
"""Sends messages through all matrices. Takes what neurons say, `[channel, side, neuron
+ 1, message]`: side 0 is for the rows that a neuron's columns meet, side 1 for the
columns that its rows meet; the last neuron is padding. Returns what arrives at each
line, a mean weighted by the edges: `[line, channel, message]`."""


@dataclass(frozen=True, slots=True)
class Means:
    """Which rows of some values are averaged at each place."""

    row: Tensor | None
    """`[item]`: the row of each item; None if items are all rows in their order."""
    place: Tensor
    """`[item]`: where it goes."""
    share: Tensor
    """`[place, 1]`: one over the number of items of each place."""
    order: Tensor
    """`[item]`: the rows of all items, sorted by place."""
    starts: Tensor
    """`[place]`: where its items start in `order`."""

    @classmethod
    def of(cls, place: Tensor, size: int, row: Tensor | None = None) -> "Means":
        """Return means of integers of a CPU.

        Args:
            place: as above.
            size: number of places.
            row: as above.
        """
        counts = torch.bincount(place, minlength=size)
        order = place.argsort(stable=True)
        return cls(
            row=row,
            place=place,
            share=1 / counts[:, None].clamp_min(1).double(),
            order=order if row is None else row[order],
            starts=counts.cumsum(0) - counts,
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> "Means":
        """Return the same on a device, in a type."""
        return Means(
            row=None if self.row is None else self.row.to(device),
            place=self.place.to(device),
            share=self.share.to(device, dtype),
            order=self.order.to(device),
            starts=self.starts.to(device),
        )

    def __call__(self, values: Tensor) -> Tensor:
        """Return the mean at each place, zero where nothing goes.

        Args:
            values: `[row, channel]`.

        Returns:
            `[place, channel]`.
        """
        if in_plain_eager():
            values = values.contiguous()
            if values.device.type != "cpu":
                return F.embedding_bag(self.order, values, self.starts, mode="mean")
            sums = F.embedding_bag(self.order, values, self.starts, mode="sum")
            return sums.mul_(self.share)  # a CPU is slow at the mode "mean"
        if self.row is not None:
            values = values.index_select(0, self.row)
        total = values.new_zeros(len(self.share), values.shape[-1])
        return total.index_add(0, self.place, values) * self.share


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
    at_neurons: Means
    """From lines to the places of their neurons."""
    at_matrices: Means
    """From neurons, once for each of their lines, to the places of these lines'
    matrices."""
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
    at_receivers: Means
    """From all pairs of `tied` and a kind to the neurons that their ties reach."""


class NeuronFeatures(NamedTuple):
    """What the network reads."""

    lines: Tensor
    """`[line, line feature + 2]`; the last two tell the side, one-hot."""
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
        weighted = wiring.at_neurons(heard)
        del heard
        inbox = [nodes, weighted.view(len(nodes), -1)]
        if len(wiring.senders):  # without ties nothing comes, as if all sent zeros
            inbox.append(self._tied(nodes, wiring))
        return nodes + self.change(_silu(_of_parts(self.hear, *inbox)))

    def _said(self, nodes: Tensor) -> Tensor:
        """Return messages for lines, `[channel, side, neuron + 1, message]`."""
        said = self.say(nodes).view(len(nodes), 2, self.num_channels, -1)
        return said.permute(2, 1, 0, 3)

    def _tied(self, nodes: Tensor, wiring: NeuronWiring) -> Tensor:
        """Return what arrives along ties, `[neuron + 1, message]`."""
        said = self.say_to_ties(nodes.index_select(0, wiring.tied))
        return wiring.at_receivers(said.view(-1, self.message_width))


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
        shared = _of_rest(self.line_in, features.lines, matrices)
        shared = shared.index_select(0, wiring.matrix)
        lines = _silu(_added(shared, features.lines, self.line_in))
        first = wiring.at_neurons(lines)
        first = first.view(len(wiring.neurons), -1)
        nodes = _silu(_of_parts(self.neuron_in, wiring.neurons, first))
        del first
        for layer in self.layers:
            nodes = layer(nodes, wiring, exchange)
        hidden = _with_owners(self.line_out.hidden, lines, nodes, wiring)
        del lines
        said = self.line_out.last(_silu(hidden)).squeeze(-1)
        del hidden
        pooled = wiring.at_matrices(nodes)
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
    layer: nn.Linear, lines: Tensor, nodes: Tensor, wiring: NeuronWiring
) -> Tensor:
    """Return a layer of lines, their sides and their neurons, `[line, output]`.

    That is `layer(cat([lines, sides, nodes[neuron]]))`; what neurons add is computed
    once per neuron and side, so that no such tensor is made.

    Args:
        layer: its inputs are a line's, two for the side, and the neuron's.
        lines: `[line, input]`.
        nodes: `[neuron + 1, input]`.
        wiring: the graph.
    """
    own = lines.shape[-1]
    shared = F.linear(nodes, layer.weight[:, own + 2 :], layer.bias)
    out = None  # in that order, so that `flatten` copies nothing
    if in_plain_eager():
        out = shared.new_empty(len(nodes), 2, shared.shape[-1])
    sides = layer.weight[:, own : own + 2].T
    shared = torch.add(shared[:, None], sides, out=out).flatten(0, 1)
    return _added(shared.index_select(0, wiring.at_neurons.place), lines, layer)


def _of_rest(layer: nn.Linear, first: Tensor, rest: Tensor) -> Tensor:
    """Return what the last inputs of a layer add, with its bias."""
    return F.linear(rest, layer.weight[:, first.shape[-1] :], layer.bias)


def _added(base: Tensor, first: Tensor, layer: nn.Linear) -> Tensor:
    """Return a tensor of ours plus what the first inputs of a layer add."""
    return add_product(base, first, layer.weight[:, : first.shape[-1]].T)


def _silu(values: Tensor) -> Tensor:
    """Return SiLU of a tensor of ours, written over where that is allowed."""
    return F.silu(values, inplace=not torch.is_grad_enabled())
