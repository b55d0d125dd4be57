"""Trained networks with a target each: what a companion network learns from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .batch import NetworkBatch, Rows


@dataclass(frozen=True, slots=True, eq=False)
class NetworkSet:
    """Trained networks, and what is wanted of each.

    Args:
        networks: the networks.
        targets: a leading axis of as many entries: classes, accuracies, images.

    Raises:
        ValueError: if there are more or fewer targets than networks.

    Example:
        >>> import l2o, torch
        >>> from l2o.companion import stack_networks
        >>> graph = l2o.neural_graph(torch.nn.Linear(3, 2))
        >>> weights = {"weight": torch.zeros(5, 2, 3), "bias": torch.zeros(5, 2)}
        >>> data = NetworkSet(stack_networks(graph, weights), torch.arange(5))
        >>> data[1:3].targets
        tensor([1, 2])
    """

    networks: NetworkBatch
    targets: Tensor

    def __post_init__(self) -> None:
        if self.targets.ndim == 0 or len(self.targets) != len(self.networks):
            raise ValueError(
                "NetworkSet needs one target per network; got targets of shape "
                f"{tuple(self.targets.shape)} for {len(self.networks)} networks. Pass "
                "a tensor with a leading axis of that length."
            )

    def __len__(self) -> int:
        return len(self.networks)

    def __getitem__(self, rows: Rows) -> "NetworkSet":
        """Return some of the networks in the given order, as `NetworkBatch` does."""
        chosen = self.networks[rows]
        if isinstance(rows, int):
            targets = self.targets[rows : rows + 1 or None]
        else:
            index = rows if isinstance(rows, slice) else torch.as_tensor(rows)
            targets = self.targets[index]
        return NetworkSet(chosen, targets)

    def to(self, target: torch.device | torch.dtype | str) -> "NetworkSet":
        """Return the set on another device, or its networks of another dtype.

        Args:
            target: what `torch.Tensor.to` takes; targets take a device only.
        """
        networks = self.networks.to(target)
        return NetworkSet(networks, self.targets.to(networks.like.device))

    def split(
        self, size: int, *, one_architecture: bool = False
    ) -> Iterator["NetworkSet"]:
        """Yield the networks at most `size` at a time.

        Args:
            size: networks per part, at least 1.
            one_architecture: whether a part holds one architecture only; the parts
                then follow the stacks of the batch, not the order of the networks.
        """
        if not one_architecture or len(self.networks.stacks) == 1:
            parts = self.networks.split(size)
            yield from map(NetworkSet, parts, self.targets.split(size))
            return
        for stack in self.networks.stacks:
            yield from self[stack.positions].split(size)

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, piece: int = 1
    ) -> list[Tensor]:
        """Return the networks of each batch of one pass, in random order.

        Args:
            batch_size: networks per batch; with pieces a batch may exceed it by part of
                a piece.
            generator: draws the order.
            piece: networks of one stack that stay together, since networks of one
                architecture cost less in one batch. In a batch, those of one
                architecture are neighbours.
        """
        if piece == 1:
            return list(
                torch.randperm(len(self), generator=generator).split(batch_size)
            )
        pieces: list[tuple[int, Tensor]] = []
        for stack in self.networks.stacks:
            order = torch.randperm(len(stack), generator=generator)
            rows = stack.positions.cpu()[order].split(piece)
            pieces += [(id(stack.graph), own) for own in rows]
        order = torch.randperm(len(pieces), generator=generator)
        batches, waiting, count = [], [], 0
        for index in order.tolist():
            waiting.append(pieces[index])
            count += len(pieces[index][1])
            if count >= batch_size:
                batches.append(_by_architecture(waiting))
                waiting, count = [], 0
        if waiting:
            batches.append(_by_architecture(waiting))
        return batches


def concatenate_sets(sets: Sequence[NetworkSet]) -> NetworkSet:
    """Return sets one after the other as one; their stacks stay apart.

    Args:
        sets: at least one.

    Example:
        >>> from l2o.companion import layered_graph, stack_networks
        >>> graph = layered_graph({"weight": (2, 3)})
        >>> batch = stack_networks(graph, {"weight": torch.zeros(4, 2, 3)})
        >>> data = NetworkSet(batch, torch.zeros(4))
        >>> len(concatenate_sets([data, data[:1]]))
        5
    """
    stacks, start = [], 0
    for data in sets:
        stacks += [
            replace(stack, positions=stack.positions + start)
            for stack in data.networks.stacks
        ]
        start += len(data)
    targets = torch.cat([data.targets for data in sets])
    return NetworkSet(NetworkBatch(tuple(stacks)), targets)


def _by_architecture(pieces: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Concatenate pieces, those of one architecture next to each other."""
    alike: dict[int, list[Tensor]] = {}
    for architecture, rows in pieces:
        alike.setdefault(architecture, []).append(rows)
    return torch.cat([rows for found in alike.values() for rows in found])
