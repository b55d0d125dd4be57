"""Locks by which processes share one results file.

The system releases a lock when the process that holds it ends, in whatever way.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Locks:
    """Locks on single runs and on the results file, one small file each.

    That of the results file stays, since another contest may write the same results.
    """

    def __init__(self, results: Path) -> None:
        self.folder = results.with_name(f"{results.name}.locks")

    @contextmanager
    def try_hold(self, key: str) -> Iterator[bool]:
        """Hold a run, unless another process does; yield whether it worked."""
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
            # Whoever opened the file before finds the row when it gets the lock.
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()

    @contextmanager
    def hold_results(self) -> Iterator[None]:
        """Hold the results file; wait for it."""
        from filelock import FileLock

        with FileLock(self.folder / "append.lock"):
            yield
