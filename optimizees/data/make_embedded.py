"""Choose the embedded FashionMNIST subset from the full data and write it."""

import argparse
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from optimizees.data.fashion_mnist import NUM_VALIDATION
from optimizees.data.idx import read_idx, write_idx
from optimizees.data.layouts import find_file, require

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


def build_embedded(directory: Path) -> dict[str, UInt8[Tensor, "N ..."]]:
    """Choose the subset.

    Training images come from the first 55,000, the 1,000 for validation, which lie
    last, from the last 5,000, test images from the test set: each embedded split is
    part of the full split of the same name. All are balanced over the classes.

    Args:
        directory: where the four files of the full data are.

    Returns:
        The images and labels of the training and the test part, by file name.
    """
    generator = torch.Generator().manual_seed(SEED)
    train_labels = _read(directory, "train-labels-idx1-ubyte.gz")
    test_labels = _read(directory, "t10k-labels-idx1-ubyte.gz")
    start = len(train_labels) - NUM_VALIDATION
    train = choose_balanced(train_labels[:start], 900, generator)
    validation = choose_balanced(train_labels[start:], 100, generator) + start
    test = choose_balanced(test_labels, 200, generator)
    train = torch.cat([train, validation])
    train_images = _read(directory, "train-images-idx3-ubyte.gz")
    test_images = _read(directory, "t10k-images-idx3-ubyte.gz")
    return {
        "train-images-idx3-ubyte.gz": train_images[train],
        "train-labels-idx1-ubyte.gz": train_labels[train],
        "t10k-images-idx3-ubyte.gz": test_images[test],
        "t10k-labels-idx1-ubyte.gz": test_labels[test],
    }


def _read(directory: Path, name: str) -> Tensor:
    """Read one file of the full data."""
    path = find_file(directory, name)
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
    arguments.dest.mkdir(parents=True, exist_ok=True)
    chosen = build_embedded(require("fashion-mnist", arguments.root))
    for file, values in chosen.items():
        write_idx(arguments.dest / file, values)


if __name__ == "__main__":
    main()
