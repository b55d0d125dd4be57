import multiprocessing
import os
import signal
import time
from functools import partial

import pytest
import torch

from optimizees.shared_work import Locks, device_of_worker, in_processes, share_out

PIECES = tuple(range(6))


def make_files(folder, announce, *, worker, kill_at=None, seconds=0.0):
    """Write a file for each number; end as the number `kill_at` is begun."""

    def make(number):
        path = folder / f"{number}"
        if path.exists():
            return
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        path.write_text(str(worker))
        announce(f"{number} by {worker}")

    def find_missing():
        return [number for number in PIECES if not (folder / f"{number}").exists()]

    share_out(find_missing, make, locks=Locks(folder))


def fail(announce, *, worker):
    raise ValueError("no such device. Choose auto or cpu.")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "made"
    path.mkdir()
    return path


def test_one_process_makes_all_in_order(folder):
    lines = []
    in_processes(partial(make_files, folder), 1, lines.append, owner="this")
    assert lines == [f"{number} by None" for number in PIECES]
    assert list(Locks(folder).folder.iterdir()) == []


def test_what_another_holds_is_left_to_it(folder):
    made = []
    with Locks(folder).try_hold("0") as is_held:
        assert is_held
        share_out(lambda: [] if made else [0, 1], made.append, locks=Locks(folder))
    assert made == [1]


@pytest.mark.parametrize("workers", [0, -1])
def test_somebody_must_work(workers):
    with pytest.raises(ValueError, match=r"this needs at least one worker; got"):
        in_processes(fail, workers, print, owner="this")


def test_gpus_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    some, named = torch.device("cuda"), torch.device("cuda", 1)
    found = [device_of_worker(some, worker) for worker in range(3)]
    assert found == [torch.device("cuda", index) for index in (0, 1, 0)]
    assert device_of_worker(named, 0) == named
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of_worker(some, None) == torch.device("cuda", 1)


@pytest.mark.slow
class TestProcesses:
    def test_each_piece_is_made_once(self, folder):
        lines = []
        work = partial(make_files, folder, seconds=0.2)
        in_processes(work, 3, lines.append, owner="this")
        assert sorted(line[0] for line in lines) == [str(number) for number in PIECES]
        assert len({path.read_text() for path in folder.iterdir()}) > 1

    def test_an_error_is_raised_here(self):
        with pytest.raises(ValueError, match="Choose auto or cpu"):
            in_processes(fail, 2, print, owner="this")

    def test_if_all_are_killed_it_is_said(self, folder):
        work = partial(make_files, folder, kill_at=0)
        with pytest.raises(RuntimeError, match="Run the command again"):
            in_processes(work, 2, print, owner="this")

    def test_others_make_what_a_killed_one_left(self, folder):
        """The killed process had begun the third piece."""
        child = multiprocessing.get_context("spawn").Process(
            target=make_files, args=(folder, print), kwargs=_killed_at_two()
        )
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert len(list(folder.iterdir())) == 2
        lines = []
        in_processes(partial(make_files, folder), 2, lines.append, owner="this")
        assert sorted(line[0] for line in lines) == ["2", "3", "4", "5"]


def _killed_at_two():
    return {"worker": 7, "kill_at": 2}
