"""Tiles side by side: a thread each, instead of all threads on every operation.

What is done to a tile is some hundred short operations. Threads that share each of them
wait for one another after each; threads that take a tile each wait once.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import TypeVar

import torch
from torch._C._functorch import peek_interpreter_stack
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

Item = TypeVar("Item")
Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor] = {}
"""The threads, by their number; at most one entry."""

os.register_at_fork(after_in_child=_pools.clear)  # a child has none of the threads


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> list[Result]:
    """Return the function of each item, in their order.

    On a CPU without autograd, items are computed in as many threads as torch uses, each
    by one of them. Results do not depend on it, beyond the rounding that torch's own
    number of threads makes.

    Args:
        function: must not write what it reads for another item.
        items: what it is called with.
        device: where it computes.
    """
    return list(as_they_come(function, items, device))


def as_they_come(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Iterable[Result]:
    """Return what `side_by_side` does, an item at a time.

    Small results that wait for the last one lie between what large ones leave when they
    are freed, and nothing large fits there again.
    """
    if torch.compiler.is_compiling():
        return [function(item) for item in items]
    count = torch.get_num_threads()
    if count == 1 or len(items) == 1 or not _may_leave_this_thread(device):
        return map(function, items)
    return _pool(count).map(partial(_without_autograd, function), items)


def _may_leave_this_thread(device: torch.device) -> bool:
    """Whether nothing that belongs to this thread would be missed in another."""
    return (
        device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and not is_in_torch_dispatch_mode()
        and peek_interpreter_stack() is None
    )


def _without_autograd(function: Callable[[Item], Result], item: Item) -> Result:
    with torch.no_grad():
        return function(item)


def _pool(count: int) -> ThreadPoolExecutor:
    """Return threads that do not share their operations, started once."""
    if count not in _pools:
        for pool in _pools.values():
            pool.shutdown()
        _pools.clear()
        pool, barrier = ThreadPoolExecutor(count), Barrier(count + 1)
        for _ in range(count):
            pool.submit(_begin, barrier)
        barrier.wait()
        torch.set_num_threads(count)  # what a thread sets, threads to come inherit
        _pools[count] = pool
    return _pools[count]


def _begin(barrier: Barrier) -> None:
    torch.get_num_threads()  # else the first operation takes the number of all threads
    torch.set_num_threads(1)
    barrier.wait()
