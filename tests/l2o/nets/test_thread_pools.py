"""Worker threads: of several sizes at once, and where there are none to be had."""

import subprocess
import sys
import threading

import pytest
import torch

from l2o.nets import thread_map as module
from l2o.nets.thread_map import thread_map

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_before():
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def squares(count):
    torch.set_num_threads(count)
    with torch.no_grad():
        return thread_map(lambda number: number * number, range(20), CPU)


def test_threads_with_different_numbers_of_threads():
    """Neither ends the other's pool."""
    found = []

    def run(count):
        found.extend(squares(count) for _ in range(30))

    threads = [threading.Thread(target=run, args=(count,)) for count in (2, 3, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 90 * [[number * number for number in range(20)]]


@pytest.mark.parametrize("started", [0, 1])
def test_without_more_threads_the_caller_computes(monkeypatch, started):
    monkeypatch.setattr(module, "_pools", {})
    start, before, left = threading.Thread.start, threading.active_count(), [started]

    def refuse(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert squares(2) == [number * number for number in range(20)]
    assert module._pools == {2: None}
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor") and started:
            thread.join(timeout=0.05)
    assert threading.active_count() <= before + started


@pytest.mark.slow
def test_the_process_ends_where_a_worker_cannot_start():
    code = (
        "import threading, torch\n"
        "from l2o.nets.thread_map import thread_map\n"
        "start, left = threading.Thread.start, [1]\n"
        "def refuse(thread):\n"
        "    if not left[0]: raise RuntimeError('no more')\n"
        "    left[0] -= 1; start(thread)\n"
        "threading.Thread.start = refuse\n"
        "torch.set_num_threads(2)\n"
        "with torch.no_grad():\n"
        "    print(thread_map(abs, [-1, -2, -3], torch.device('cpu')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[1, 2, 3]", done.stderr
    assert done.returncode == 0
