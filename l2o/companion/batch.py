"""Trained networks as data: many of them, of one architecture or of several."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from l2o.graph import NeuralGraph

from .running_statistics import fold_running_statistics, is_running_statistic

Rows: TypeAlias = int | slice | Sequence[int] | Tensor
"""Which networks: one, a slice, numbers, or a mask."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkStack:
    """Networks of one architecture, their parameters stacked."""

    graph: NeuralGraph
    """The architecture."""
    params: dict[str, Tensor]
    """Name to `[network, *shape]`, in the order of `graph.shapes`."""
    positions: Tensor
    """`[network]`, the position of each in the batch."""

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkBatch:
    """A batch of trained networks: the disjoint union of their neural graphs.

    `stack_networks` makes one of networks that share an architecture,
    `collate_networks` of any. A batch holds tensors as they are, so autograd passes
    through to them. Nothing in this package couples the networks of a batch: split it
    as memory or cache demand, and the results stay what they were.

    Args:
        stacks: the networks, one stack per architecture; their positions together
            are 0, 1, 2, ...

    Example:
        >>> import l2o, torch
        >>> graph = l2o.neural_graph(torch.nn.Linear(3, 2))
        >>> weights = torch.zeros(5, 2, 3), torch.zeros(5, 2)
        >>> batch = stack_networks(graph, dict(zip(graph.shapes, weights)))
        >>> len(batch), [len(part) for part in batch.split(2)]
        (5, [2, 2, 1])
        >>> len(batch[[3, 0]])
        2
    """

    stacks: tuple[NetworkStack, ...]

    def __len__(self) -> int:
        return sum(map(len, self.stacks))

    @property
    def graph(self) -> NeuralGraph:
        """The only architecture.

        Raises:
            ValueError: if there are several.
        """
        return self._only().graph

    @property
    def params(self) -> dict[str, Tensor]:
        """Name to `[network, *shape]`, where all networks share an architecture.

        Raises:
            ValueError: if there are several architectures.
        """
        return self._only().params

    @property
    def like(self) -> Tensor:
        """A parameter, for its dtype and device."""
        return next(iter(self.stacks[0].params.values()))

    def to(self, target: torch.device | torch.dtype | str) -> "NetworkBatch":
        """Return the batch with its parameters on another device or of another dtype.

        Args:
            target: what `torch.Tensor.to` takes.
        """
        stacks = []
        for stack in self.stacks:
            params = {name: value.to(target) for name, value in stack.params.items()}
            positions = stack.positions.to(next(iter(params.values())).device)
            stacks.append(NetworkStack(stack.graph, params, positions))
        return NetworkBatch(tuple(stacks))

    def split(self, size: int) -> Iterator["NetworkBatch"]:
        """Yield the networks in order, at most `size` at a time; views where possible.

        Args:
            size: networks per part, at least 1.

        Raises:
            ValueError: if `size` is below 1.
        """
        if size < 1:
            raise ValueError(
                f"NetworkBatch.split needs parts of at least one network; got {size}. "
                "Pass a positive size."
            )
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __getitem__(self, rows: Rows) -> "NetworkBatch":
        """Return some of the networks, in the given order.

        A slice of networks of one architecture shares their memory; all else is copied.

        Args:
            rows: a number, for a batch of one network; a slice; numbers; or a mask.

        Raises:
            IndexError: if a network is not there.
            ValueError: if no network is left.
        """
        device = self.stacks[0].positions.device
        every = torch.arange(len(self), device=device)
        if isinstance(rows, int):
            chosen = every[rows].reshape(1)
        else:
            index = rows if isinstance(rows, slice) else torch.as_tensor(rows)
            chosen = every[index if isinstance(index, slice) else index.to(device)]
        if not len(chosen):
            raise ValueError(
                f"NetworkBatch needs at least one network; got {rows!r} of {len(self)}."
                " Choose some of them."
            )
        if len(self.stacks) == 1:
            (stack,) = self.stacks
            own = rows if isinstance(rows, slice) else chosen
            return NetworkBatch((_chosen(stack, own, every[: len(chosen)]),))
        owner, row = every.new_empty(len(self)), every.new_empty(len(self))
        for number, stack in enumerate(self.stacks):
            owner[stack.positions] = number
            row[stack.positions] = every[: len(stack)]
        owner, row = owner[chosen], row[chosen]
        alike: dict[int, list[NetworkStack]] = {}
        first_seen = dict.fromkeys(owner.tolist())
        for number in first_seen:
            positions = (owner == number).nonzero()[:, 0]
            part = _chosen(self.stacks[number], row[positions], positions)
            alike.setdefault(id(part.graph), []).append(part)
        return NetworkBatch(tuple(map(_joined, alike.values())))

    def _only(self) -> NetworkStack:
        if len(self.stacks) != 1:
            raise ValueError(
                "NetworkBatch has one graph and one set of params only where all "
                f"networks share an architecture; got {len(self.stacks)}. Go through "
                "batch.stacks."
            )
        return self.stacks[0]


def _chosen(
    stack: NetworkStack, rows: slice | Tensor, positions: Tensor
) -> NetworkStack:
    """Return some rows of a stack, at other positions."""
    params = {name: value[rows] for name, value in stack.params.items()}
    return NetworkStack(stack.graph, params, positions)


def _joined(stacks: list[NetworkStack]) -> NetworkStack:
    """Return stacks of one architecture as one."""
    if len(stacks) == 1:
        return stacks[0]
    params = {
        name: torch.cat([stack.params[name] for stack in stacks])
        for name in stacks[0].params
    }
    positions = torch.cat([stack.positions for stack in stacks])
    return NetworkStack(stacks[0].graph, params, positions)


def stack_networks(
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    *,
    running_statistics: bool = True,
) -> NetworkBatch:
    """Return networks of one architecture as a batch.

    Args:
        graph: the architecture. Keep the object: what depends on it alone is computed
            once and kept with it.
        params: name to `[network, *shape]`, for every parameter of the graph; and the
            running statistics of batch norms, by their names in `state_dict()`.
        running_statistics: whether running statistics are read, as part of the weights
            and biases of their norms (`fold_running_statistics`); False leaves them
            out.

    Returns:
        The batch; it shares the memory of `params`, but for such weights and biases.

    Raises:
        ValueError: if a parameter or a statistic is missing, if there are others, or if
            a shape is wrong.
    """
    if running_statistics:
        others = params.keys() - graph.shapes.keys()
        if all(map(is_running_statistic, others)):
            params = fold_running_statistics(graph, params)
    else:
        params = {n: value for n, value in params.items() if n in graph.shapes}
    if params.keys() != graph.shapes.keys():
        raise ValueError(
            "stack_networks needs the parameters of the graph, by name; got "
            f"{sorted(params)} for {sorted(graph.shapes)}. Pass "
            "{name: stacked tensor} with the graph's own names."
        )
    counts = {len(value) if value.ndim else 0 for value in params.values()}
    for name, shape in graph.shapes.items():
        if len(counts) != 1 or tuple(params[name].shape[1:]) != shape:
            raise ValueError(
                "stack_networks needs tensors [network, *shape], equally many networks "
                f"in each; got {tuple(params[name].shape)} for {name!r} of shape "
                f"{shape}. Stack the parameters along a new first axis."
            )
    ordered = {name: params[name] for name in graph.shapes}
    first = next(iter(ordered.values()))
    positions = torch.arange(len(first), device=first.device)
    return NetworkBatch((NetworkStack(graph, ordered, positions),))


def _alike(graphs: Sequence[NeuralGraph]) -> list[list[int]]:
    """Return the positions of equal graphs, in the order of the first of each."""
    found: list[list[int]] = []
    known: dict[int, list[int]] = {}
    for position, graph in enumerate(graphs):
        if id(graph) not in known:
            equal = (own for own in found if graphs[own[0]] == graph)
            known[id(graph)] = next(equal, [])
            if not known[id(graph)]:
                found.append(known[id(graph)])
        known[id(graph)].append(position)
    return found


def collate_networks(
    graphs: Sequence[NeuralGraph],
    params: Sequence[Mapping[str, Tensor]],
    *,
    running_statistics: bool = True,
) -> NetworkBatch:
    """Return networks of any architectures as a batch.

    Networks of one architecture are stacked, whoever traced them: equal graphs count as
    one, the first of them. The results do not depend on it, the speed does.

    Args:
        graphs: the architecture of each network.
        params: for each network, name to `[*shape]`, as for `stack_networks`.
        running_statistics: as for `stack_networks`.

    Returns:
        The batch, in the given order; its parameters are copies.

    Raises:
        ValueError: if there is no network, if the counts differ, or if parameters do
            not fit their graph.
    """
    if not graphs or len(graphs) != len(params):
        raise ValueError(
            "collate_networks needs at least one network, and for each one graph and "
            f"one set of parameters; got {len(graphs)} graphs and {len(params)} sets. "
            "Pass two sequences of one length."
        )
    stacks = []
    for members in _alike(graphs):
        graph = graphs[members[0]]
        found = [params[position] for position in members]
        if any(
            own.keys() != found[0].keys() or not own.keys() >= graph.shapes.keys()
            for own in found
        ):
            raise ValueError(
                "collate_networks needs the parameters of each graph, by name; got "
                f"{sorted(found[0])} for {sorted(graph.shapes)}. Pass each network's "
                "named parameters with its own graph."
            )
        stacked = {name: torch.stack([own[name] for own in found]) for name in found[0]}
        batch = stack_networks(graph, stacked, running_statistics=running_statistics)
        (stack,) = batch.stacks
        positions = torch.tensor(members, device=stack.positions.device)
        stacks.append(NetworkStack(graph, stack.params, positions))
    return NetworkBatch(tuple(stacks))
