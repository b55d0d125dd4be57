import subprocess
import sys

import pytest
import torch

from benchmarks.step_cost.memory import (
    available_memory,
    is_out_of_memory,
    peak_memory,
)

CPU = torch.device("cpu")
MEBIBYTE = 2**20

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the resident set is read from /proc"
)

LIMITED = """
import torch
from benchmarks.step_cost.memory import is_out_of_memory, limit_memory
limit_memory(100 * 2**20)
torch.zeros(2**20)
try:
    torch.zeros(2**30)
except RuntimeError as error:
    assert is_out_of_memory(error), error
else:
    raise SystemExit("the limit was not kept")
"""


@on_linux
def test_the_peak_counts_what_is_freed_before_the_end():
    peak = peak_memory(lambda: torch.ones(64 * MEBIBYTE // 4).sum(), CPU)
    assert 60 * MEBIBYTE < peak < 80 * MEBIBYTE


@on_linux
def test_the_peak_does_not_count_what_was_there_before():
    kept = torch.ones(64 * MEBIBYTE // 4)
    assert peak_memory(lambda: kept.add_(1), CPU) < 8 * MEBIBYTE


@on_linux
@pytest.mark.slow
def test_memory_may_be_limited_before_the_machine_runs_out():
    subprocess.run([sys.executable, "-c", LIMITED], check=True)
    assert available_memory() > 100 * MEBIBYTE


def test_other_errors_are_no_lack_of_memory():
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))
