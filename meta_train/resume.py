"""Checkpoints of a meta-training run: written whole, read without pickle."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from l2o.files import write_whole


def save_checkpoint(values: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values; the previous file survives any failure.

    Raises:
        OSError: if there is no room.
    """
    buffer = io.BytesIO()
    torch.save(values, buffer)
    write_whole(path, buffer.getvalue())


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
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise ValueError(
            f"--resume needs a whole checkpoint; got {path}, which cannot be read "
            f"({error}). Delete it and start again."
        ) from error
