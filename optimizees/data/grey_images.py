"""Grey images of 28 x 28 pixels with their classes, as MNIST and FashionMNIST are."""

from pathlib import Path
from typing import Literal, TypeAlias

from jaxtyping import UInt8
from torch import Tensor

from optimizees.data.idx import read_idx
from optimizees.data.layouts import DatasetName, find_file, require
from optimizees.files import FileKind

PixelsName: TypeAlias = Literal["mnist-test", "fashion-train", "fashion-test"]
Pair: TypeAlias = tuple[UInt8[Tensor, "N 28 28"], UInt8[Tensor, " N"]]

_FILES: dict[PixelsName, tuple[DatasetName, str]] = {
    "mnist-test": ("mnist-test", "mnist-t10k"),
    "fashion-train": ("fashion-mnist", "train"),
    "fashion-test": ("fashion-mnist", "t10k"),
}
PARTS: tuple[PixelsName, ...] = tuple(_FILES)
"""Every set of images; its position is the number that `initial_weights` takes."""

MEAN = (0.1307,)
"""Mean of MNIST's pixels, in units of white."""
STD = (0.3081,)
"""Standard deviation of MNIST's pixels, in units of white."""

_SIDE = 28
_NUM_CLASSES = 10


def read_pixels(name: PixelsName, root: Path | None = None) -> Pair:
    """Read images as bytes, numbered as their data set numbers them, and classes.

    Args:
        name: MNIST's test set, or a part of FashionMNIST.
        root: if given, the files must be there; else they are looked for as
            `optimizees.data.layouts.locate` says.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or the two do not belong together.
    """
    dataset, stem = _FILES[name]
    return read_pair(*find_pair(require(dataset, root), stem))


def find_pair(directory: Path, stem: str) -> tuple[Path, Path]:
    """Return the files of images and classes of one part, gzipped or not.

    Args:
        directory: where `STEM-images-idx3-ubyte.gz` and `STEM-labels-idx1-ubyte.gz`
            are, as `locate` or `require` found them.
        stem: what the names begin with.
    """
    images = find_file(directory, f"{stem}-images-idx3-ubyte.gz")
    labels = find_file(directory, f"{stem}-labels-idx1-ubyte.gz")
    assert images is not None  # locate and require look for both
    assert labels is not None
    return images, labels


def read_pair(images_path: Path, labels_path: Path) -> Pair:
    """Read images and their classes.

    Args:
        images_path: an IDX file of bytes [N, 28, 28].
        labels_path: an IDX file of bytes [N], from 0 to 9.

    Raises:
        ValueError: if a file is damaged, has another shape or a class above 9, or if
            the two do not belong together.
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    kind = FileKind(
        "read_pair",
        "images [N, 28, 28] and a class from 0 to 9 for each",
        "Download both files again.",
    )
    if images.ndim != 3 or images.shape[1:] != (_SIDE, _SIDE):
        raise kind.error(images_path, f"it holds images {tuple(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise kind.error(
            labels_path,
            f"it holds labels {tuple(labels.shape)} for {len(images):,} images, so the "
            "files do not belong together",
        )
    if len(labels) and int(labels.max()) >= _NUM_CLASSES:
        raise kind.error(labels_path, f"it holds the class {int(labels.max())}")
    return images, labels
