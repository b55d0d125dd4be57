"""Choose the embedded FashionMNIST subset from the full data and write it."""

import argparse
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from optimizees.data.fashion_mnist import NUM_VALIDATION
from optimizees.data.idx import read_idx, write_idx
from optimizees.data.locate import find_file, require

NUM_CLASSES = 10
SEED = 0


def choose_balanced(
    labels: UInt8[Tensor, " N"], per_class: int, generator: torch.Generator
) -> Int[Tensor, " M"]:
    """Choose images at random, equally many of each class, in random order.

    Args:
        labels: classes to choose from.
        per_class: images of each of the ten classes.
        generator: decides the choice and the order.

    Returns:
        Indices into `labels`.

    Raises:
        ValueError: if a class has fewer than `per_class` images.
    """
    chosen: list[Tensor] = []
    for label in range(NUM_CLASSES):
        found = (labels == label).nonzero().squeeze(1)
        if len(found) < per_class:
            raise ValueError(
                f"choose_balanced needs {per_class} images of every class; got "
                f"{len(found)} of class {label}. Pass more labels or a smaller "
                "per_class."
            )
        chosen.append(found[torch.randperm(len(found), generator=generator)])
    indices = torch.cat([found[:per_class] for found in chosen])
    return indices[torch.randperm(len(indices), generator=generator)]


def write_embedded(root: Path | None, dest: Path) -> None:
    """Write the four files of the subset.

    Training images come from the first 55,000, the 1,000 for validation, which lie
    last, from the last 5,000, test images from the test set: each embedded split is
    part of the full split of the same name. All are balanced over the classes.

    Args:
        root: where the full data lies; None looks for it.
        dest: the directory to write to.
    """
    directory = require("fashion-mnist", root)
    generator = torch.Generator().manual_seed(SEED)
    train_labels = _read(directory, "train-labels-idx1-ubyte")
    test_labels = _read(directory, "t10k-labels-idx1-ubyte")
    start = len(train_labels) - NUM_VALIDATION
    train = choose_balanced(train_labels[:start], 900, generator)
    validation = choose_balanced(train_labels[start:], 100, generator) + start
    test = choose_balanced(test_labels, 200, generator)
    train = torch.cat([train, validation])
    dest.mkdir(parents=True, exist_ok=True)
    for part, indices, labels in (
        ("train", train, train_labels),
        ("t10k", test, test_labels),
    ):
        images = _read(directory, f"{part}-images-idx3-ubyte")
        write_idx(dest / f"{part}-images-idx3-ubyte.gz", images[indices])
        write_idx(dest / f"{part}-labels-idx1-ubyte.gz", labels[indices])


def _read(directory: Path, name: str) -> Tensor:
    """Read one file of the full data."""
    path = find_file(directory, f"{name}.gz")
    assert path is not None  # require looked for it
    return read_idx(path)


def main() -> None:
    """Write the subset into this package, or where --dest says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="directory of the full data")
    parser.add_argument(
        "--dest", type=Path, default=Path(__file__).with_name("embedded")
    )
    arguments = parser.parse_args()
    write_embedded(arguments.root, arguments.dest)


if __name__ == "__main__":
    main()
