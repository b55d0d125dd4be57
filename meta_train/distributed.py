"""Several processes as one run: what they exchange, and what a lost one means."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_PATIENCE = timedelta(minutes=60)
"""A rank that is silent for this long counts as lost; validation takes minutes."""


class Ranks:
    """This process among those of the run; alone unless `joined_ranks` says otherwise.

    Args:
        rank: number of this process.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place, in one exchange.

        Args:
            tensors: of one dtype and device, the same shapes on every rank.

        Raises:
            ConnectionError: if a rank is lost.
        """
        if self.size == 1:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        with _told_apart():
            dist.all_reduce(whole)
        parts = whole.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, value: bool) -> bool:
        """Return whether the value is true on any rank; the same on all of them."""
        flag = torch.tensor([float(value)])
        self.add_up([flag])
        return bool(flag.item() > 0)

    def gather(self, value: dict[int, Any]) -> dict[int, Any]:
        """Return the union of every rank's mapping on the first rank; {} on others.

        Raises:
            ConnectionError: if a rank is lost.
        """
        if self.size == 1:
            return value
        parts: list[Any] | None = [None] * self.size if self.is_first else None
        with _told_apart():
            dist.gather_object(value, parts)
        return {key: item for part in parts or [] for key, item in part.items()}


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, while the context lasts.

    Without torchrun, or with one process, nothing is joined.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


@contextmanager
def _told_apart() -> Iterator[None]:
    """Turn a broken exchange into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "MetaTrainer needs every process until the run ends; got a broken exchange "
            f"with the others ({str(error).splitlines()[0]}). One of them has died: "
            "see its message, then start all again with --resume."
        ) from error
