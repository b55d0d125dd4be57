"""Checkpoints of a meta-training run: written whole, read without pickle."""

from pathlib import Path
from typing import Any

from l2o.files import read_state, write_state


def save_checkpoint(values: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values; the previous file survives any failure.

    Raises:
        OSError: if there is no room.
    """
    write_state(path, values)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--resume needs a checkpoint; got {path}, which does not exist. "
            "Start the run without --resume."
        )
    try:
        return read_state(path)
    except ValueError as error:
        raise ValueError(
            f"--resume needs a whole checkpoint; got {error}. Delete it and start "
            "again."
        ) from error
