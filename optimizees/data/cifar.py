"""CIFAR-10 in its official binary layout."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from optimizees.data.images import ImageData, normalise
from optimizees.data.layouts import require
from optimizees.data.splits import Split, check_split, noun_of
from optimizees.files import FileKind

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
NUM_VALIDATION = 5_000
"""Images at the end of the 50,000 that are held out for validation."""

MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
"""Checksum of each file in the official archive."""

_ROW_BYTES = 1 + 3 * 32 * 32
_NUM_CLASSES = 10
_FILE = FileKind(
    "load_cifar10",
    "official binary files, rows of a label from 0 to 9 and 3,072 pixels",
    "Download it again.",
)
_JPEG_MARKER = "JPEG_COPIES"


def load_cifar10(split: Split, *, root: Path | None = None) -> ImageData:
    """Load one split of CIFAR-10, normalised per channel.

    Args:
        split: "train" is the first 45,000 training images, "validation" the last
            5,000, "train+validation" both, "test" the test set.
        root: if given, the files must be there or in its cifar-10-batches-bin;
            else they are looked for below $L2O_DATA and in the cache of
            `l2o data download`.

    Returns:
        Images [N, 3, 32, 32] and labels in 0..9. `source` names the directory, and
        says whether the pixels are the official ones: they count as different when
        a checksum is, or when the directory holds a file JPEG_COPIES.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the split is unknown or a file is not in the layout.

    Reference: Krizhevsky, 2009, "Learning Multiple Layers of Features from Tiny
        Images", https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    check_split("load_cifar10", split)
    directory = require("cifar-10", root)
    if split == "test":
        paths = [directory / "test_batch.bin"]
    else:
        paths = [directory / f"data_batch_{index}.bin" for index in range(1, 6)]
    parts = {path.name: _FILE.read_bytes(path) for path in paths}
    rows = torch.cat([_rows(raw, directory / file) for file, raw in parts.items()])
    is_official = not (directory / _JPEG_MARKER).exists() and all(
        hashlib.md5(raw, usedforsecurity=False).hexdigest() == MD5[file]
        for file, raw in parts.items()
    )
    if split in ("train", "validation"):
        if len(rows) <= NUM_VALIDATION:
            raise ValueError(
                f"load_cifar10 needs more than {NUM_VALIDATION:,} training images to "
                f"hold the last {NUM_VALIDATION:,} out; got {len(rows):,} in "
                f"{directory}. Pass split='train+validation' to take all."
            )
        held_out = slice(-NUM_VALIDATION, None)
        rows = rows[:-NUM_VALIDATION] if split == "train" else rows[held_out]
    differing = "pixels differ from the official files, e.g. JPEG copies"
    kind = "official files" if is_official else differing
    return ImageData(
        images=normalise(rows[:, 1:].reshape(-1, 3, 32, 32), MEAN, STD),
        labels=rows[:, 0].to(torch.int64),
        source=f"CIFAR-10 ({kind}, {len(rows):,} {noun_of(split)} images, "
        f"from {directory})",
    )


def _rows(raw: bytes, path: Path) -> UInt8[Tensor, "N row"]:
    """Split one file into rows: a label byte, 3,072 pixel bytes, red plane first."""
    if len(raw) % _ROW_BYTES:
        raise _FILE.error(
            path,
            f"it is truncated or not the binary version: {len(raw):,} bytes are not a "
            f"multiple of {_ROW_BYTES:,}",
        )
    rows = np.frombuffer(raw, np.uint8).reshape(-1, _ROW_BYTES)
    largest = int(rows[:, 0].max())
    if largest >= _NUM_CLASSES:
        raise _FILE.error(
            path, f"it holds the class {largest}, as CIFAR-100 or a damaged file does"
        )
    return torch.from_numpy(rows.copy())
