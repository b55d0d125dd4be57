"""Map a function over tiles, one thread per tile.

A tile takes some hundred short operations. Threads that share every operation wait for
one another after each; threads with a tile of their own wait once.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, RLock
from typing import TypeVar

import torch
from torch._C._functorch import peek_interpreter_stack
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

Item = TypeVar("Item")
Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor | None] = {}
"""Thread pools by their number of threads; None where one could not be started."""
_lock = RLock()


def _forget() -> None:
    """Drop all pools in a forked process, where no thread survives."""
    global _lock
    _lock = RLock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget)


def thread_map(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> list[Result]:
    """Return `function(item)` for each item, in their order.

    On a CPU without autograd, items are computed in as many threads as torch uses, one
    item in one thread. The result differs from that of a loop by no more than the
    rounding that depends on torch's number of threads.

    Args:
        function: must not write what it reads for another item.
        items: what it is called with.
        device: where it computes.
    """
    return list(iterate_in_threads(function, items, device))


def iterate_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Iterable[Result]:
    """Return what `thread_map` does, one item at a time.

    A caller that consumes each result at once keeps memory from being fragmented by
    small results that wait for the last one.
    """
    if torch.compiler.is_compiling():
        return [function(item) for item in items]
    count = torch.get_num_threads()
    if count == 1 or len(items) == 1 or not _may_run_in_workers(device):
        return map(function, items)
    pool = _pool(count)
    if pool is None:
        return map(function, items)
    try:
        return pool.map(partial(_without_autograd, function), items)
    except RuntimeError:  # the interpreter is shutting down
        return map(function, items)


def _may_run_in_workers(device: torch.device) -> bool:
    """Whether this may run in a worker thread: no mode of this thread is active."""
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


def _pool(count: int) -> ThreadPoolExecutor | None:
    """Return worker threads whose operations run in one thread each.

    Pools are started once and stay, since another thread may be using its own.

    Returns:
        The pool; None where the system gives no more threads.
    """
    with _lock:
        if count not in _pools:
            _pools[count] = _started(count)
        return _pools[count]


def _started(count: int) -> ThreadPoolExecutor | None:
    pool, barrier = ThreadPoolExecutor(count), Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(_begin, barrier)
        barrier.wait()
    except BaseException as error:
        barrier.abort()  # or the workers that did start would wait for ever
        pool.shutdown(wait=False, cancel_futures=True)
        if not isinstance(error, RuntimeError):
            raise
        return None
    finally:
        torch.set_num_threads(count)  # later threads inherit what this one sets
    return pool


def _begin(barrier: Barrier) -> None:
    torch.get_num_threads()  # before it is set, or the first operation resets it
    torch.set_num_threads(1)
    barrier.wait()
