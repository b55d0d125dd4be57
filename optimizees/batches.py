"""Batches of training data: shuffled epochs, exactly resumable."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


class Batch(NamedTuple):
    """What one loss is computed on."""

    inputs: Any
    """Argument of the network, or a tuple of its arguments; examples come first."""
    targets: Any
    """What the loss compares the outputs with; `len` is the number of examples."""


@runtime_checkable
class Batches(Protocol):
    """Endless training batches that can be saved and resumed exactly."""

    def next(self) -> Batch:
        """Return the next batch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain numbers from which another sampler continues."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another sampler over the same data stopped."""
        ...


class Mover:
    """Copies tensors to a device, each one once.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the copy; later calls with the same tensor return the same one."""
        if id(tensor) not in self._copies:  # with the tensor, so that its id stays
            self._copies[id(tensor)] = tensor, tensor.to(self._device)
        return self._copies[id(tensor)][1]


@runtime_checkable
class HoldsData(Protocol):
    """Batches that are cut from data in memory, which can be moved as a whole."""

    def moved(self, move: Callable[[Tensor], Tensor]) -> Batches:
        """Return these batches, cut from moved data."""
        ...


def batches_on(batches: Batches, device: torch.device, move: Mover) -> Batches:
    """Return batches whose tensors lie on a device.

    Args:
        batches: freshly built. The data of a `BatchSampler` or `TextSampler` are
            copied as a whole, those of any other object batch by batch.
        device: where to.
        move: copies data there; the same one for all batches that share data.
    """
    if isinstance(batches, HoldsData):
        return batches.moved(move)
    return MappedBatches(
        batches,
        lambda batch: tree_map(lambda x: x.to(device, non_blocking=True), batch),
    )


def arguments(batch: Batch) -> tuple[Any, ...]:
    """Return what the network is called with."""
    return batch.inputs if isinstance(batch.inputs, tuple) else (batch.inputs,)


def cut(batch: Batch, piece: int = 1000) -> list[Batch]:
    """Return a large batch in pieces of at most `piece` examples, sharing memory."""
    inputs, targets = batch.inputs.split(piece), batch.targets.split(piece)
    return [Batch(*pair) for pair in zip(inputs, targets, strict=True)]


def num_examples(batch: Batch) -> int:
    """Return the number of examples of a batch."""
    return len(tree_leaves(batch.targets)[0])


class MappedBatches:
    """Batches of another sampler, each passed through a function."""

    def __init__(self, batches: Batches, change: Callable[[Batch], Batch]) -> None:
        self._batches = batches
        self._change = change

    def next(self) -> Batch:
        """Return the changed next batch."""
        return self._change(self._batches.next())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the other sampler."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of the other sampler."""
        self._batches.load_state_dict(state)


class BatchSampler:
    """Endless batches from shuffled epochs, without replacement, exactly resumable.

    Every epoch visits the data in a new order and drops the last incomplete batch.

    Args:
        data: all examples as one batch of tensors, or tuples of tensors, on one device.
        batch_size: examples per batch, at most the size of the data.
        seed: decides every order; the global generator is never used.

    Raises:
        ValueError: unless 1 <= batch_size <= number of examples.
    """

    def __init__(self, data: Batch, batch_size: int, seed: int) -> None:
        self.data = data
        self._num_examples = num_examples(data)
        self._device = tree_leaves(data)[0].device
        if not 1 <= batch_size <= self._num_examples:
            raise ValueError(
                f"BatchSampler needs 1 <= batch_size <= {self._num_examples}, the "
                f"number of examples; got batch_size={batch_size}. "
                "Pass a smaller batch or more data."
            )
        self.batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._start_epoch()

    def moved(self, move: Callable[[Tensor], Tensor]) -> "BatchSampler":
        """Return this sampler with its data moved; the batches stay the same."""
        found = copy.copy(self)
        found.data = tree_map(move, self.data)
        found._device = tree_leaves(found.data)[0].device
        found._order = self._order.to(found._device)
        return found

    def next(self) -> Batch:
        """Return the next batch; its tensors are copies, on the data's device."""
        if self._position + self.batch_size > self._num_examples:
            self._start_epoch()
        stop = self._position + self.batch_size
        indices = self._order[self._position : stop]
        self._position = stop
        return tree_map(lambda item: item[indices], self.data)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return what a new sampler needs to continue exactly here.

        Returns:
            Tensors on the CPU and integers only; copies, so they stay as they are.
        """
        return {
            "generator": self._generator.get_state(),
            "order": self._order.cpu().clone(),
            "position": self._position,
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Continue where another sampler over the same data stopped.

        Args:
            state: what that sampler's `state_dict` returned.

        Raises:
            ValueError: if that sampler had other data or another batch size.
        """
        generator, order = state["generator"], torch.as_tensor(state["order"])
        position, batch_size = state["position"], state["batch_size"]
        if len(order) != self._num_examples:
            raise ValueError(
                "BatchSampler.load_state_dict needs the state of a sampler over "
                f"{self._num_examples} examples; got {len(order)}. "
                "Build this sampler with the data of the interrupted run."
            )
        if batch_size != self.batch_size:
            raise ValueError(
                "BatchSampler.load_state_dict needs the state of a sampler with "
                f"batch_size={self.batch_size}; got {batch_size}. "
                "Build this sampler with the batch size of the interrupted run."
            )
        self._generator.set_state(torch.as_tensor(generator).cpu())
        self._order = order.to(self._device, copy=True)
        self._position = int(position)

    def _start_epoch(self) -> None:
        """Draw a new order and go to its beginning."""
        order = torch.randperm(
            self._num_examples, generator=self._generator, device="cpu"
        )
        self._order = order.to(self._device, non_blocking=True)
        self._position = 0
