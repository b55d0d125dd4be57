"""FashionMNIST: in full where it is found, else the embedded subset."""

from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from optimizees.data.grey_images import MEAN, STD, find_pair, read_pair
from optimizees.data.images import ImageData, normalise
from optimizees.data.layouts import locate, require
from optimizees.data.splits import Split, check_split, noun_of

NUM_VALIDATION = 5_000
"""Images at the end of the 60,000 that are held out for validation."""
NUM_VALIDATION_EMBEDDED = 1_000
"""The same, of the embedded 10,000."""


def load_fashion_mnist(
    split: Split,
    *,
    root: Path | None = None,
    source: Literal["auto", "full", "embedded"] = "auto",
) -> ImageData:
    """Load one split of FashionMNIST, normalised.

    The full data is looked for below $L2O_DATA, where the Debian package
    dataset-fashion-mnist puts it, and in the cache of `l2o data download`. Without
    it, "auto" takes the embedded subset: 10,000 training and 2,000 test images.

    Args:
        split: "train" is all training images but the last 5,000 (embedded: 1,000);
            "validation" is those; "train+validation" is both; "test" the test set.
        root: if given, the full data must be there.
        source: "auto" takes the full data if there is any, "full" insists on it,
            "embedded" never looks for it.

    Returns:
        Images [N, 1, 28, 28] and labels in 0..9; `source` says which data it is.

    Raises:
        FileNotFoundError: if the full data is asked for and not there.
        ValueError: if the split or the source is unknown, if `root` is given with
            the embedded source, or if a file is damaged.

    Reference: Xiao, Rasul and Vollgraf, 2017, "Fashion-MNIST: a Novel Image Dataset
        for Benchmarking Machine Learning Algorithms",
        https://arxiv.org/abs/1708.07747. The normalisation constants are those of
        MNIST, as in the paper that this library reproduces.
    """
    check_split("load_fashion_mnist", split)
    sources = ("auto", "full", "embedded")
    if source not in sources:
        raise ValueError(
            f"load_fashion_mnist needs a known source; got {source!r}. "
            f"Pass one of {', '.join(sources)}."
        )
    if root is not None and source == "embedded":
        raise ValueError(
            "load_fashion_mnist takes either root or source='embedded'; got "
            f"root={root} with it. Leave one of them out."
        )
    part = "t10k" if split == "test" else "train"
    if source == "full" or root is not None:
        directory = require("fashion-mnist", root)
    else:
        directory = locate("fashion-mnist") if source == "auto" else None
    if directory is None:
        pixels, labels = read_embedded_pixels(part)
        kind, held_out, where = "embedded subset", NUM_VALIDATION_EMBEDDED, ""
    else:
        pixels, labels = read_pair(*find_pair(directory, part))
        kind, held_out, where = "full", NUM_VALIDATION, f", from {directory}"
    if split in ("train", "validation") and len(pixels) <= held_out:
        raise ValueError(
            f"load_fashion_mnist needs more than {held_out:,} training images to hold "
            f"the last {held_out:,} out; got {len(pixels):,}{where}. "
            "Pass split='train+validation' to take all."
        )
    if split == "train":
        pixels, labels = pixels[:-held_out], labels[:-held_out]
    elif split == "validation":
        pixels, labels = pixels[-held_out:], labels[-held_out:]
    return ImageData(
        images=normalise(pixels.unsqueeze(1), MEAN, STD),
        labels=labels.to(torch.int64),
        source=f"FashionMNIST ({kind}, {len(pixels):,} {noun_of(split)} images{where})",
    )


def read_embedded_pixels(
    part: Literal["train", "t10k"],
) -> tuple[UInt8[Tensor, "N 28 28"], UInt8[Tensor, " N"]]:
    """Return the raw bytes of the embedded images and labels.

    Args:
        part: "train" for the 10,000 training images, "t10k" for the 2,000 of the
            test set.
    """
    folder = resources.files("optimizees.data").joinpath("embedded")
    images = folder.joinpath(f"{part}-images-idx3-ubyte.gz")
    labels = folder.joinpath(f"{part}-labels-idx1-ubyte.gz")
    with (  # a wheel may be zipped
        resources.as_file(images) as images_path,
        resources.as_file(labels) as labels_path,
    ):
        return read_pair(images_path, labels_path)
