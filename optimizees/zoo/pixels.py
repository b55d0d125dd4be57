"""Grey images as bytes, numbered as their data set numbers them."""

from pathlib import Path
from typing import Literal, TypeAlias

from jaxtyping import UInt8
from torch import Tensor

from optimizees.data.idx import read_idx
from optimizees.data.layouts import DatasetName, find_file, require

PixelsName: TypeAlias = Literal["mnist-test", "fashion-train", "fashion-test"]

_FILES: dict[PixelsName, tuple[DatasetName, str]] = {
    "mnist-test": ("mnist-test", "mnist-t10k"),
    "fashion-train": ("fashion-mnist", "train"),
    "fashion-test": ("fashion-mnist", "t10k"),
}
PARTS: tuple[PixelsName, ...] = tuple(_FILES)
"""Every set of images; its place is the number that `initial_weights` takes."""


def read_pixels(
    name: PixelsName, root: Path | None = None
) -> tuple[UInt8[Tensor, "N 28 28"], UInt8[Tensor, " N"]]:
    """Read images and their classes.

    Args:
        name: MNIST's test set, or a part of FashionMNIST.
        root: if given, the files must lie there; else they are looked for as
            `optimizees.data.layouts.locate` says.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or the two do not belong together.
    """
    dataset, stem = _FILES[name]
    directory = require(dataset, root)
    paths = [
        find_file(directory, f"{stem}-{kind}-ubyte.gz")
        for kind in ("images-idx3", "labels-idx1")
    ]
    images, labels = (read_idx(path) for path in paths if path is not None)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            "read_pixels needs images [N, 28, 28] and as many labels; got "
            f"{tuple(images.shape)} and {tuple(labels.shape)} in {directory}. "
            f"Run `l2o data download {dataset}`."
        )
    return images, labels
