"""Ten thousand handwritten digits: the test set of MNIST."""

from pathlib import Path

import torch

from optimizees.data.grey_images import MEAN, STD, find_pair, read_pair
from optimizees.data.images import ImageData, normalise
from optimizees.data.layouts import require
from optimizees.data.splits import Split, noun_of, split_range


def load_digits(
    split: Split,
    *,
    root: Path | None = None,
) -> ImageData:
    """Load a part of MNIST's test set, normalised.

    Results are not those of MNIST: the 60,000 training images are not used, and the
    last thousand of the test set are what is tested on.

    Args:
        split: "train" is the first 8,000 digits, "validation" the next 1,000,
            "train+validation" both, "test" the last 1,000.
        root: if given, the files must be there; else they are looked for below
            $L2O_DATA and in the cache of `l2o data download`.

    Returns:
        Images [N, 1, 28, 28] and labels in 0..9.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the split is unknown or a file is damaged.

    Reference: LeCun, Cortes and Burges, "The MNIST database of handwritten digits",
        http://yann.lecun.com/exdb/mnist/.
    """
    part = split_range("load_digits", split, 10_000, 0.8, 0.9)
    directory = require("mnist-test", root)
    pixels, labels = read_pair(*find_pair(directory, "mnist-t10k"))
    if len(pixels) != 10_000:
        raise ValueError(
            f"load_digits needs 10,000 images; got {len(pixels):,} in {directory}. Run "
            "`l2o data download mnist-test`."
        )
    return ImageData(
        images=normalise(pixels[part].unsqueeze(1), MEAN, STD),
        labels=labels[part].to(torch.int64),
        source=f"digits of MNIST's test set ({len(labels[part]):,} "
        f"{noun_of(split)} images, from {directory})",
    )
