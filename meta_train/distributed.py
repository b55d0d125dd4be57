"""Several processes as one run: what they exchange, and errors when one is lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_PATIENCE = timedelta(minutes=60)
"""A process that is silent for this long counts as lost; validation takes minutes."""


class Processes:
    """This process among those of the run.

    Args:
        index: number of this process.
        size: how many there are.
    """

    def __init__(self, index: int = 0, size: int = 1) -> None:
        self.index = index
        self.size = size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.index == 0

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place, in one exchange.

        Args:
            tensors: of one dtype and device, the same shapes in every process.

        Raises:
            ConnectionError: if a process is lost.
        """
        if self.size == 1:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        with _convert_errors():
            dist.all_reduce(whole)
        parts = whole.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process; the same in all of them."""
        flag = torch.tensor([float(value)])
        self.add_up([flag])
        return bool(flag.item() > 0)

    def gather(self, value: dict[int, Any]) -> dict[int, Any]:
        """Return the union of all mappings in the first process; {} in the others.

        Raises:
            ConnectionError: if a process is lost.
        """
        if self.size == 1:
            return value
        parts: list[Any] | None = [None] * self.size if self.is_first else None
        with _convert_errors():
            dist.gather_object(value, parts)
        return {key: item for part in parts or [] for key, item in part.items()}


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the processes that torchrun started, while the context lasts.

    Without torchrun, or with one process, nothing is joined.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


@contextmanager
def _convert_errors() -> Iterator[None]:
    """Turn a broken exchange into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "MetaTrainer needs every process until the run ends; got a broken exchange "
            f"with the others ({str(error).splitlines()[0]}). One of them has died: "
            "see its message, then start all again with --resume."
        ) from error
