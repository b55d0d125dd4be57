"""The disjoint union of the graphs of a batch: fans of edges between numbered neurons.

All neurons of a batch are numbered, network after network. Blocks of one shape of all
networks form one tensor `[part, receiver, sender]`, again network after network. A
*fan* is such a tensor seen from the receiving end: messages that run backwards belong
to a second fan, the transpose of the first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o.graph import NeuralGraph, Neurons, derived

from .batch import NetworkBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Fan:
    """Edges from every sender of a part to every receiver of the part."""

    receivers: Tensor
    """`[part, receiver]`, number of each neuron in the batch."""
    senders: Tensor
    """`[part, sender]`, number of each neuron in the batch."""
    is_reversed: bool
    """Whether they run against the weights."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One block (or tie) of the networks of one stack, as a share of a fan's parts."""

    stack: int
    """Which stack of the batch."""
    block: int
    """Which of `graph.blocks`; behind them, which of `graph.ties`."""
    parts: int
    """Networks times parts of the block."""
    is_linear: bool
    """Whether it is a linear layer, not a kernel and not a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionGraph:
    """The neurons and edges of a batch, without any value."""

    pieces: tuple[tuple[Piece, ...], ...]
    """The blocks that each fan along the weights consists of, in order."""
    fans: tuple[Fan, ...]
    """The fans along the weights, then, if messages run both ways, their transposes."""
    padded: Tensor
    """`[neuron]`, its number if every network were as large as the largest."""
    is_real: Tensor
    """`[network, padded neuron]`, false for padding; networks stack after stack."""
    is_even: bool
    """Whether all networks have equally many neurons."""
    degree: Tensor
    """`[neuron]`, how many messages it receives."""
    positions: Tensor | None
    """`[network]`, position in the batch of the networks, stack after stack; None where
    that is their order."""
    outputs: Tensor | None
    """`[network, output]`, numbers of the output neurons; None where networks have
    different numbers of outputs."""

    @property
    def num_forward(self) -> int:
        """Number of fans along the weights."""
        return len(self.pieces)

    def pad(self, nodes: Tensor) -> Tensor:
        """Return `[network, padded neuron, width]` from `[neuron, width]`."""
        shape = *self.is_real.shape, nodes.shape[-1]
        if self.is_even:
            return nodes.view(shape)
        empty = nodes.new_zeros(self.is_real.numel(), nodes.shape[-1])
        return empty.index_copy(0, self.padded, nodes).view(shape)

    def in_order(self, answers: Tensor) -> Tensor:
        """Return one row per network in the batch's order, from rows stack by stack."""
        if self.positions is None:
            return answers
        return torch.empty_like(answers).index_copy(0, self.positions, answers)


def find_union_graph(
    batch: NetworkBatch, *, both_ways: bool, ties: bool, tell_linear: bool
) -> UnionGraph:
    """Return the graph of all networks of a batch.

    Args:
        batch: the networks; what depends on one architecture alone is kept with it.
        both_ways: whether messages also run against the weights.
        ties: whether residual connections are edges.
        tell_linear: whether linear layers and kernels get separate fans.

    Raises:
        ValueError: if a parameter of a network has no certain place.
    """
    device = batch.like.device
    if len(batch.stacks) == 1:
        graph, count = batch.graph, len(batch)
        return _build_for_one(graph, count, device, both_ways, ties, tell_linear)
    stacks = [(stack.graph, len(stack)) for stack in batch.stacks]
    positions = torch.cat([stack.positions for stack in batch.stacks])
    return _build(stacks, positions, device, both_ways, ties, tell_linear)


def typical_log_degree(batch: NetworkBatch, *, reversed_edges: bool) -> float:
    """Return the mean over all neurons of log(number of messages + 1).

    Args:
        batch: the training set, or some of it.
        reversed_edges: whether messages also run against the weights.

    Returns:
        What `NGGNNBackboneConfig.typical_log_degree` should be.
    """
    graph = find_union_graph(
        batch, both_ways=reversed_edges, ties=True, tell_linear=False
    )
    return float(graph.degree.double().log1p().mean())


def degrees(graph: NeuralGraph, *, both_ways: bool) -> Tensor:
    """Return how many messages each neuron of an architecture receives.

    Args:
        graph: the architecture.
        both_ways: whether messages also run against the weights.
    """
    cpu = torch.device("cpu")
    return _build_for_one(graph, 1, cpu, both_ways, True, False).degree


@derived
def neuron_numbers(graph: NeuralGraph, neurons: Neurons) -> Tensor:
    """Return the numbers of some neurons among all of their network."""
    start = sum(group.size for group in graph.groups[: neurons.group])
    return start + torch.tensor(tuple(neurons.index)).long()


@derived
def node_channels(graph: NeuralGraph) -> tuple[int, ...]:
    """Return, for each node parameter, how many entries per neuron come before it.

    That is 0 for a bias. Entries of one parameter, such as a position table, follow.
    """
    nodes = graph.node_parameters
    return tuple(
        sum(
            other.num_cells
            for other in nodes[:number]
            if other.neurons.group == node.neurons.group
            and not set(node.neurons.index).isdisjoint(other.neurons.index)
        )
        for number, node in enumerate(nodes)
    )


def count_neurons(graph: NeuralGraph) -> int:
    """Return how many neurons a network has."""
    return sum(group.size for group in graph.groups)


@derived
def _build_for_one(
    graph: NeuralGraph,
    count: int,
    device: torch.device,
    both_ways: bool,
    ties: bool,
    tell_linear: bool,
) -> UnionGraph:
    """Return the graph of `count` networks of one architecture."""
    return _build([(graph, count)], None, device, both_ways, ties, tell_linear)


def _build(
    stacks: Sequence[tuple[NeuralGraph, int]],
    positions: Tensor | None,
    device: torch.device,
    both_ways: bool,
    ties: bool,
    tell_linear: bool,
) -> UnionGraph:
    """Return the graph, built on the CPU and then moved to the device.

    Args:
        stacks: each architecture with its number of networks.
        positions: `[network]`, place in the batch of the networks, stack after stack.
        device: where the tensors are moved.
        both_ways: whether messages also run against the weights.
        ties: whether residual connections are edges.
        tell_linear: whether linear layers and kernels get separate fans.
    """
    starts, padded, first, network = [], [], 0, 0
    sizes = [count_neurons(graph) for graph, _ in stacks]
    for (graph, count), size in zip(stacks, sizes, strict=True):
        _check_places(graph)
        starts.append(first + size * torch.arange(count))
        rows = network + torch.arange(count)
        padded.append((max(sizes) * rows[:, None] + torch.arange(size)).flatten())
        first, network = first + size * count, network + count
    numbers = torch.cat(padded)
    is_real = torch.zeros(network * max(sizes), dtype=torch.bool)
    is_real[numbers] = True
    alike: dict[tuple[bool, int, int], list[tuple[Piece, Tensor, Tensor]]] = {}
    for index, (graph, _) in enumerate(stacks):
        for block, is_linear, targets, sources in _blocks(graph, ties):
            target = _everywhere(targets, starts[index])
            source = _everywhere(sources, starts[index])
            key = is_linear and tell_linear, target.shape[1], source.shape[1]
            piece = Piece(index, block, len(target), is_linear)
            alike.setdefault(key, []).append((piece, target, source))
    fans = [
        Fan(
            receivers=torch.cat([target for _, target, _ in found]).to(device),
            senders=torch.cat([source for _, _, source in found]).to(device),
            is_reversed=False,
        )
        for found in alike.values()
    ]
    if both_ways:
        fans += [
            Fan(receivers=fan.senders, senders=fan.receivers, is_reversed=True)
            for fan in fans
        ]
    return UnionGraph(
        pieces=tuple(tuple(piece for piece, _, _ in found) for found in alike.values()),
        fans=tuple(fans),
        padded=numbers.to(device),
        is_real=is_real.view(network, -1).to(device),
        is_even=len(set(sizes)) == 1,
        degree=_degree(fans, first, device),
        positions=positions,
        outputs=_outputs([graph for graph, _ in stacks], starts, device),
    )


def _blocks(
    graph: NeuralGraph, ties: bool
) -> Iterable[tuple[int, bool, Tensor, Tensor]]:
    """Yield number, whether linear, and both ends `[part, neuron]` of all edges."""
    for number, block in enumerate(graph.blocks):
        targets = neuron_numbers(graph, block.target).view(block.parts, -1)
        sources = neuron_numbers(graph, block.source).view(block.parts, -1)
        yield number, not block.cells, targets, sources
    for number, tie in enumerate(graph.ties if ties else (), start=len(graph.blocks)):
        targets = neuron_numbers(graph, tie.target)[:, None]
        yield number, False, targets, neuron_numbers(graph, tie.source)[:, None]


def _everywhere(numbers: Tensor, starts: Tensor) -> Tensor:
    """Return the numbers in the batch of `[part, neuron]`, for each of a stack."""
    return (starts[:, None, None] + numbers).flatten(0, 1)


def _degree(fans: list[Fan], count: int, device: torch.device) -> Tensor:
    """Return how many messages each neuron receives."""
    degree = torch.zeros(count, device=device)
    for fan in fans:
        senders = float(fan.senders.shape[1])
        each = torch.full((fan.receivers.numel(),), senders, device=device)
        degree.index_add_(0, fan.receivers.flatten(), each)
    return degree


def _outputs(
    graphs: Sequence[NeuralGraph], starts: list[Tensor], device: torch.device
) -> Tensor | None:
    """Return the numbers of output neurons, if all have equally many."""
    rows = [
        _everywhere(output_numbers(graph)[None], start)
        for graph, start in zip(graphs, starts, strict=True)
    ]
    if len({row.shape[1] for row in rows}) != 1:
        return None
    return torch.cat(rows).to(device)


def output_numbers(graph: NeuralGraph) -> Tensor:
    """Return the numbers of a network's outputs among all its neurons."""
    roles = [group.role for group in graph.groups]
    sizes = torch.tensor([group.size for group in graph.groups])
    is_output = torch.tensor([role == "output" for role in roles])
    return is_output.repeat_interleave(sizes).nonzero()[:, 0]


def _check_places(graph: NeuralGraph) -> None:
    if not graph.unplaced:
        return
    reasons = {item.parameter: item.reason for item in graph.unplaced}
    listed = ", ".join(f"{name!r} ({reasons[name]})" for name in sorted(reasons))
    advice = (
        "Leave them out with placed_part(graph), or, of a PReLU with one slope, give "
        "each neuron its own"
        if graph.source.startswith("trace")
        else "Trace the network with neural_graph(model, inputs), or describe it with "
        "layered_graph"
    )
    raise ValueError(
        "NetworkBatch is read neuron by neuron, so every parameter needs a certain "
        f"place; got {listed} unplaced. {advice}."
    )
