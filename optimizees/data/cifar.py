"""CIFAR-10 in its official binary layout."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from optimizees.data.images import ImageData, normalise
from optimizees.data.locate import require

Split = Literal["train", "validation", "test", "train+validation"]

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
NUM_VALIDATION = 5_000
"""Images at the end of the 50,000 that are held out for validation."""

_ROW_BYTES = 1 + 3 * 32 * 32
_JPEG_MARKER = "JPEG_COPIES"


def load_cifar10(split: Split, *, root: Path | None = None) -> ImageData:
    """Load one split of CIFAR-10, normalised per channel.

    Args:
        split: "train" is the first 45,000 training images, "validation" the last
            5,000, "train+validation" both, "test" the test set.
        root: if given, the files must lie there or in its cifar-10-batches-bin;
            else they are looked for below $L2O_DATA and in the cache of
            `l2o data download`.

    Returns:
        Images [N, 3, 32, 32] and labels in 0..9. `source` names the directory and
        the SHA-256 of the first file read; where a file JPEG_COPIES lies beside the
        data, it says that the pixels differ from the official ones.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the split is unknown or a file is not in the layout.

    Reference: Krizhevsky, 2009, "Learning Multiple Layers of Features from Tiny
        Images", https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    splits = ("train", "validation", "test", "train+validation")
    if split not in splits:
        raise ValueError(
            f"load_cifar10 needs a known split; got {split!r}. "
            f"Pass one of {', '.join(splits)}."
        )
    directory = require("cifar-10", root)
    if split == "test":
        paths = [directory / "test_batch.bin"]
    else:
        paths = [directory / f"data_batch_{index}.bin" for index in range(1, 6)]
    rows = torch.cat([_read_rows(path) for path in paths])
    if split in ("train", "validation"):
        if len(rows) <= NUM_VALIDATION:
            raise ValueError(
                f"load_cifar10 needs more than {NUM_VALIDATION:,} training images to "
                f"hold the last {NUM_VALIDATION:,} out; got {len(rows):,} in "
                f"{directory}. Pass split='train+validation' to take all."
            )
        held_out = slice(-NUM_VALIDATION, None)
        rows = rows[:-NUM_VALIDATION] if split == "train" else rows[held_out]
    noun = {"validation": "validation", "test": "test"}.get(split, "training")
    return ImageData(
        images=normalise(rows[:, 1:].reshape(-1, 3, 32, 32), MEAN, STD),
        labels=rows[:, 0].to(torch.int64),
        source=_describe(directory, paths[0], f"{len(rows):,} {noun} images"),
    )


def _describe(directory: Path, first: Path, content: str) -> str:
    """Say which CIFAR-10 this is."""
    digest = hashlib.sha256(first.read_bytes()).hexdigest()[:12]
    origin = f"{content}, from {directory}, {first.name} has SHA-256 {digest}..."
    if (directory / _JPEG_MARKER).exists():
        return (
            "CIFAR-10 (pixels differ from the official files, e.g. JPEG copies; "
            f"{origin})"
        )
    return f"CIFAR-10 ({origin})"


def _read_rows(path: Path) -> UInt8[Tensor, "N row"]:
    """Read one file: rows of a label byte and 3,072 pixel bytes, red plane first."""
    raw = path.read_bytes()
    if raw.lstrip()[:1] == b"<" and b"html" in raw[:1000].lower():
        raise ValueError(
            f"load_cifar10 needs the official binary files; {path} is an HTML page. "
            "A server answered with an error page: download it again."
        )
    if not raw or len(raw) % _ROW_BYTES:
        raise ValueError(
            f"load_cifar10 needs rows of {_ROW_BYTES:,} bytes; got {len(raw):,} bytes "
            f"in {path}. The file is truncated or not the binary version: download "
            "it again."
        )
    rows = np.frombuffer(raw, np.uint8).reshape(-1, _ROW_BYTES)
    largest = int(rows[:, 0].max())
    if largest > 9:
        raise ValueError(
            f"load_cifar10 needs labels in 0..9; got {largest} in {path}. "
            "Is it CIFAR-100 or a damaged file? Download it again."
        )
    return torch.from_numpy(rows.copy())
