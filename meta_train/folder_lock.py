"""One owner of a run folder at a time."""

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None


class FolderLock:
    """An exclusive lock on a folder; it ends with the process, however that ends.

    Args:
        folder: what is locked; created.

    Raises:
        BlockingIOError: if another run holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: int | None = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._file, 20).decode().strip() or "unknown"
            self.release()
            raise BlockingIOError(
                f"MetaTrainer needs a folder that no other run uses; got {folder}, "
                f"which process {owner} uses. Wait until it ends, stop it, or choose "
                "another folder."
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.truncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        """Release the folder of a trainer that is gone."""
        if getattr(self, "_file", None) is not None:
            self.release()
