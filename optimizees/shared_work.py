"""Independent pieces of work that any number of processes share.

Nothing is handed out in advance. Each process looks which pieces are missing, takes the
first that no other one holds and makes it. A piece is held by a file lock, which the
system releases when its process ends in whatever way. So processes may come and go, and
what one was killed in is made by another.
"""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch

Piece = TypeVar("Piece")

_PAUSE_S = 0.5
"""Seconds before a process looks again, when others hold all that is missing."""


@runtime_checkable
class Work(Protocol):
    """The part of one process in shared work, until all of it is done."""

    def __call__(
        self, announce: Callable[[str], object], *, worker: int | None
    ) -> object:
        """Make pieces.

        Args:
            announce: takes one line of text per piece.
            worker: number of this process among those of a command; None if the command
                has one only, which may show progress.
        """
        ...


class Locks:
    """Locks on single pieces of work, one small file each.

    Args:
        result: the file or the folder that the pieces make; the locks lie beside it.
    """

    def __init__(self, result: Path) -> None:
        self.folder = result.with_name(f"{result.name}.locks")

    @contextmanager
    def try_hold(self, key: str) -> Iterator[bool]:
        """Hold a piece, unless another process does; yield whether it worked."""
        from filelock import FileLock, Timeout  # comes with torch

        name = hashlib.sha256(key.encode()).hexdigest()[:24]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            # Whoever opened the file before finds the piece made when it gets the lock.
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold something that all processes need for a moment; wait for it."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{name}.lock"):
            yield


def share_out(
    find_missing: Callable[[], Sequence[Piece]],
    make: Callable[[Piece], object],
    *,
    locks: Locks,
    key: Callable[[Piece], str] = str,
) -> None:
    """Make pieces until none is missing, together with other processes.

    Args:
        find_missing: returns the pieces that can be made now, in order.
        make: makes one, or returns at once if another process has made it meanwhile.
        locks: of these pieces, the same for all processes.
        key: tells a piece from all others.
    """
    while missing := find_missing():
        for piece in missing:
            with locks.try_hold(key(piece)) as is_held:
                if is_held:
                    make(piece)
                    break
        else:
            time.sleep(_PAUSE_S)


def in_processes(
    work: Work, workers: int, announce: Callable[[str], object], *, owner: str
) -> None:
    """Do shared work in one process, this one, or in several.

    Args:
        work: what each does; with several it must be picklable.
        workers: how many.
        announce: called in this process, with one line for each piece.
        owner: whose work it is, for messages.

    Raises:
        Exception: what the work raises, in any process.
        ValueError: if there is no worker.
        RuntimeError: if all processes were killed.
    """
    if workers < 1:
        raise ValueError(
            f"{owner} needs at least one worker; got workers={workers}. Leave it out, "
            "or pass the number of processes."
        )
    if workers == 1:
        work(announce, worker=None)
        return
    context = multiprocessing.get_context("spawn")  # CUDA cannot be forked
    pairs = [context.Pipe(duplex=False) for _ in range(workers)]
    processes = [
        context.Process(target=_run_worker, args=(work, index, sender), daemon=True)
        for index, (_, sender) in enumerate(pairs)
    ]
    try:
        for process in processes:
            process.start()
        for _, sender in pairs:
            sender.close()  # so that the end of a process ends its messages
        _relay([receiver for receiver, _ in pairs], announce)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()
    codes = [process.exitcode for process in processes]
    if 0 not in codes:
        raise RuntimeError(
            f"{owner} needs one worker to be left at its end; got exit codes {codes}. "
            "Run the command again: it continues where they stopped."
        )


def device_of_worker(device: torch.device, worker: int | None) -> torch.device:
    """Return the GPU of a process: they take turns, unless one GPU was named.

    Args:
        device: as asked for.
        worker: number of the process; None for the one that `torchrun` gave it.

    Example:
        >>> device_of_worker(torch.device("cpu"), 3)
        device(type='cpu')
    """
    if device.type != "cuda" or device.index is not None:
        return device
    rank = int(os.environ.get("LOCAL_RANK", "0")) if worker is None else worker
    return torch.device("cuda", rank % torch.cuda.device_count())


def _run_worker(work: Work, index: int, sender: Connection) -> None:
    """Work in a process of its own; send each line, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    with sender:
        try:
            work(partial(_send, sender), worker=index)
        except Exception as error:  # is raised in the parent
            _send(sender, error)
            raise SystemExit(1) from error


def _send(sender: Connection, message: str | Exception) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent was killed
        sender.send(message)


def _relay(receivers: list[Connection], announce: Callable[[str], object]) -> None:
    """Announce what workers send until all have ended; raise the first error."""
    left = list(receivers)
    while left:
        for receiver in wait(left):
            assert isinstance(receiver, Connection)
            try:
                message = receiver.recv()
            except EOFError:
                left.remove(receiver)
                continue
            if isinstance(message, Exception):
                raise message
            announce(message)
