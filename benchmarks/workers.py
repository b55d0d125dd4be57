"""Processes that share the runs of a contest through its results file."""

import os
from collections.abc import Callable, Iterable
from functools import partial

import torch

from optimizees import TaskLoader
from optimizees.devices import choose_device
from optimizees.shared_work import Locks, device_of_worker, in_processes, share_out

from .contest import Contest, RowsMissing, run_with
from .runs import Ledger, Row, TrainingRun, train_run, use_threads


def run(contest: Contest, announce: Callable[[str], object]) -> None:
    """Run what is not in the results yet, task after task.

    Any number of processes may do so at the same time, by this function or by several
    workers of one; each run is made by one of them. A run whose process was killed is
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
    in_processes(partial(work, contest), contest.workers, announce, owner="Contest")


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
    device = device_of_worker(choose_device(contest.device), worker)
    use_threads(_threads(contest))
    ledger = Ledger(contest.results, data=contest.data, known=contest.known)
    loader = TaskLoader(data=contest.data, device=device)
    locks = Locks(contest.results)
    config = {
        "data": contest.data,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    survey = _Survey(contest, ledger)
    if ledger.results.is_file():
        announce(f"{survey.num_done} rows are already there")

    def find_missing() -> list[TrainingRun]:
        nonlocal survey
        ledger.refresh()
        survey = _Survey(contest, ledger)
        return survey.missing

    def make(run: TrainingRun) -> None:
        ledger.refresh()
        if ledger.row(run) is not None:  # another process was faster
            return
        name = f"[{survey.num_done + 1}/{survey.num_known}] {run.name}"
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
        with locks.hold("append"):
            ledger.append(row)
        announce(f"{name}: {outcome}")

    share_out(find_missing, make, locks=locks, key=ledger.key)


def _threads(contest: Contest) -> int | None:
    """Return the CPU threads of a worker; None leaves torch's choice."""
    if contest.threads is not None or contest.workers == 1:
        return contest.threads
    return max(1, (os.cpu_count() or 1) // contest.workers)
