"""Processes that share the runs of a contest through its results file.

Nothing is handed out in advance. Each worker looks which runs can be made now, takes
the first that no other one holds and appends its row. A run is held by a file lock,
which the system releases when its process ends in whatever way. So workers may come and
go.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection, wait

import torch

from optimizees import TaskLoader
from optimizees.devices import choose_device

from .contest import Contest, RowsMissing, run_with
from .locks import Locks
from .runs import Ledger, Row, TrainingRun, train_run, use_threads

_PAUSE_S = 0.5
"""Seconds before a worker looks again, when others hold all that can be run."""


def run(contest: Contest, announce: Callable[[str], object]) -> None:
    """Run what is not in the results yet, task after task.

    Any number of processes may do so at the same time, by this function or by several
    workers of one; each run is made by one of them. What a process was killed in is
    made by another.

    Args:
        contest: what to run.
        announce: called with one line for each run.

    Raises:
        FileNotFoundError: if a rule or data is asked for and not there.
        ModuleNotFoundError: if an opponent or a task needs a package that is not
            installed.
        ValueError: if a line of the results is damaged, or there is no such device.
        OSError: if the results cannot be written.
        RuntimeError: if workers were killed and runs are left.
    """
    if contest.workers == 1:
        work(contest, announce)
    else:
        _share(contest, announce)


class _Survey:
    """Which runs of a contest have rows, and which can be made now.

    Args:
        contest: the contest.
        ledger: its rows.
    """

    def __init__(self, contest: Contest, ledger: Ledger) -> None:
        self._ledger = ledger
        self._done: set[str] = set()
        self._missing: dict[str, TrainingRun] = {}
        run_with(contest, self._complete)

    @property
    def missing(self) -> list[TrainingRun]:
        """Runs that can be made now, in order."""
        return list(self._missing.values())

    @property
    def num_done(self) -> int:
        """Runs that have a row."""
        return len(self._done)

    @property
    def num_known(self) -> int:
        """Runs that are asked for so far; tuning may ask for more."""
        return len(self._done) + len(self._missing)

    def _complete(self, runs: Iterable[TrainingRun]) -> list[Row]:
        """Return the rows of some runs.

        Raises:
            RowsMissing: unless all are there; those that are not are noted.
        """
        rows, is_whole = [], True
        for run in runs:
            key, row = self._ledger.key(run), self._ledger.row(run)
            if row is None:
                self._missing[key] = run
                is_whole = False
            else:
                self._done.add(key)
                rows.append(row)
        if not is_whole:
            raise RowsMissing
        return rows


def work(
    contest: Contest,
    announce: Callable[[str], object],
    *,
    worker: int | None = None,
) -> None:
    """Make runs until every row of a contest is there, in this process.

    Args:
        contest: what to run.
        announce: called with one line for each run.
        worker: number of this process among the contest's; None if it is alone, or for
            the one that `torchrun` gave.

    Raises:
        FileNotFoundError: if data or a rule is not there.
        ValueError: if a line of the results is damaged, or there is no such device.
        OSError: if the results cannot be written.
    """
    rank = int(os.environ.get("LOCAL_RANK", "0")) if worker is None else worker
    device = spread_device(choose_device(contest.device), rank)
    use_threads(_threads(contest))
    ledger = Ledger(contest.results, data=contest.data, known=contest.known)
    loader = TaskLoader(data=contest.data, device=device)
    locks = Locks(contest.results)
    config = {
        "data": contest.data,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    is_first = True
    while True:
        ledger.refresh()
        survey = _Survey(contest, ledger)
        if is_first and ledger.results.is_file():
            announce(f"{survey.num_done} rows are already there")
        is_first = False
        if not survey.missing:
            return
        for run in survey.missing:
            with locks.try_hold(ledger.key(run)) as is_held:
                if not is_held:
                    continue
                ledger.refresh()
                if ledger.row(run) is not None:  # another process was faster
                    break
                place = f"[{survey.num_done + 1}/{survey.num_known}]"
                name = f"{place} {run.name}"
                row, outcome = ledger.elsewhere(run), "copied"
                if row is None:
                    row, outcome = train_run(
                        run,
                        ledger,
                        loader,
                        config=config,
                        name=name,
                        shows_progress=worker is None,
                    )
                with locks.hold_results():
                    ledger.append(row)
                announce(f"{name}: {outcome}")
                break
        else:
            time.sleep(_PAUSE_S)


def _share(contest: Contest, announce: Callable[[str], object]) -> None:
    """Let the contest's number of processes make its runs.

    Args:
        contest: what to run.
        announce: called in this process, with one line for each run.

    Raises:
        Exception: what `work` raises, from any of them.
        RuntimeError: if all of them were killed.
    """
    context = multiprocessing.get_context("spawn")  # CUDA cannot be forked
    pairs = [context.Pipe(duplex=False) for _ in range(contest.workers)]
    processes = [
        context.Process(target=_worker, args=(contest, index, sender), daemon=True)
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
            "a contest needs one worker to be left at its end; got exit codes "
            f"{codes}. Run the command again: it goes on where they stopped."
        )


def spread_device(device: torch.device, worker: int) -> torch.device:
    """Return the GPU of a worker: they take turns, unless one GPU was named.

    Args:
        device: as asked for.
        worker: number of the worker.

    Example:
        >>> spread_device(torch.device("cpu"), 3)
        device(type='cpu')
    """
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", worker % torch.cuda.device_count())


def _threads(contest: Contest) -> int | None:
    """Return the CPU threads of a worker; None leaves torch's choice."""
    if contest.threads is not None or contest.workers == 1:
        return contest.threads
    return max(1, (os.cpu_count() or 1) // contest.workers)


def _worker(contest: Contest, index: int, sender: Connection) -> None:
    """Work in a process of its own; send a line per run, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    with sender:
        try:
            work(contest, partial(_send, sender), worker=index)
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
