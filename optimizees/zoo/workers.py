"""Independent pieces of work in several processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_unordered(
    make: Callable[[Item], Result], items: Sequence[Item], *, workers: int
) -> Iterator[Result]:
    """Yield `make(item)` for every item, in the order in which they are finished.

    Nothing starts before the first result is asked for.

    Args:
        make: what to do; with several workers it must be picklable.
        items: what to do it with.
        workers: items at a time, each in a process with as many threads as this one;
            with one, nothing leaves this process.

    Raises:
        ValueError: if there are no workers.
    """
    if workers < 1:
        raise ValueError(
            f"map_unordered needs at least one worker; got workers={workers}. Choose "
            "as many as there are cores to spare."
        )
    return map(make, items) if workers == 1 else _in_processes(make, items, workers)


def _in_processes(
    make: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    with ProcessPoolExecutor(
        workers,
        get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(torch.get_num_threads(),),
    ) as pool:
        try:
            for future in as_completed([pool.submit(make, item) for item in items]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
