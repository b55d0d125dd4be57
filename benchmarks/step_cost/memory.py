"""How much memory a call takes at its peak."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Call and return how far memory rose above what was in use before, in bytes.

    On a GPU that is what torch's allocator held. On a CPU it is the resident set of the
    process, so libraries' buffers count as well; what an earlier call freed is handed
    back first, or it would hide what this one takes.

    Args:
        call: called once.
        device: where it works.

    Returns:
        Bytes; None on a CPU whose system does not tell (it must be Linux).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    if not _can_tell():
        call()
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def limit_memory(num_bytes: int) -> None:
    """Let allocations beyond this many more bytes fail, instead of the machine.

    Args:
        num_bytes: of address space, in addition to what the process has already.
    """
    import resource

    limit = _status("VmSize") + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def available_memory() -> int | None:
    """Return how many bytes the machine has to give; None if it does not tell."""
    if not _can_tell():
        return None
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU torch has no type for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "can't allocate memory" in str(error)
    )


def _can_tell() -> bool:
    return sys.platform == "linux"


def _status(key: str) -> int:
    return _kilobytes(_STATUS, key)


def _kilobytes(file: Path, key: str) -> int:
    lines = file.read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
