"""Where data sets are on this machine."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DatasetName = Literal["fashion-mnist", "cifar-10", "mnist-test"]

_FASHION_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_CIFAR_FILES = (
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
)


@dataclass(frozen=True)
class Layout:
    """The files of one data set and where to look for them."""

    files: tuple[str, ...]
    """Every file that must be there; one that ends in .gz may be unpacked."""
    subdirectories: tuple[str, ...]
    """Where below a given directory the files may be, first match first."""
    system: tuple[Path, ...]
    """Where a system package puts them."""
    advice: str
    """How to get them."""


LAYOUTS: dict[str, Layout] = {
    "fashion-mnist": Layout(
        files=_FASHION_FILES,
        subdirectories=(".", "fashion-mnist", "FashionMNIST/raw"),
        system=(Path("/usr/share/datasets/fashion-mnist"),),
        advice=(
            "Run `l2o data download fashion-mnist`, or on Debian `apt-get install "
            "dataset-fashion-mnist`, or set L2O_DATA to the directory that holds it."
        ),
    ),
    "cifar-10": Layout(
        files=_CIFAR_FILES,
        subdirectories=(
            ".",
            "cifar-10-batches-bin",
            "cifar-10",
            "cifar-10/cifar-10-batches-bin",
        ),
        system=(),
        advice=(
            "Run `l2o data download cifar-10`, or set L2O_DATA to the directory that "
            "holds cifar-10-batches-bin."
        ),
    ),
    # The server's names are those of FashionMNIST's files; `mnist-` tells them apart.
    "mnist-test": Layout(
        files=("mnist-t10k-images-idx3-ubyte.gz", "mnist-t10k-labels-idx1-ubyte.gz"),
        subdirectories=(".", "mnist-test"),
        system=(),
        advice=(
            "Run `l2o data download mnist-test`, or set L2O_DATA to the directory that "
            "holds it."
        ),
    ),
}


def layout(name: str) -> Layout:
    """Return the files of a data set and where to look for them.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in LAYOUTS:
        raise ValueError(
            f"locate needs a known data set; got {name!r}. "
            f"Pass one of {', '.join(LAYOUTS)}."
        )
    return LAYOUTS[name]


def cache_directory(name: DatasetName) -> Path:
    """Return where a download is kept: below $XDG_CACHE_HOME or ~/.cache.

    Raises:
        FileNotFoundError: if there is neither that variable nor a home directory.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(configured) if configured else Path.home() / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError(
            "a download needs a directory; got neither $XDG_CACHE_HOME nor a home "
            "directory. Pass --dest (dest=), or set XDG_CACHE_HOME."
        ) from error
    return base / "l2o" / name


def locate(name: DatasetName) -> Path | None:
    """Find a data set on this machine.

    Looks below $L2O_DATA, then where a system package puts it, then in the cache of
    `download`. A directory counts when every file is there and not empty; the content
    is not read.

    Args:
        name: "fashion-mnist", "cifar-10" or "mnist-test".

    Returns:
        The directory that holds the files, or None.

    Raises:
        FileNotFoundError: if L2O_DATA is set to something that is no directory.
        ValueError: if the name is unknown.
    """
    bases, fixed = [], _fixed_places(name)
    configured = os.environ.get("L2O_DATA", "")
    if configured:
        if not Path(configured).is_dir():
            raise FileNotFoundError(
                f"L2O_DATA must name an existing directory; got {configured}. "
                "Create it, or unset the variable."
            )
        bases.append(Path(configured))
    for base in [*bases, *fixed]:
        found = locate_below(name, base)
        if found is not None:
            return found
    return None


def locate_below(name: DatasetName, base: Path) -> Path | None:
    """Return the directory at or below `base` that holds every file, or None."""
    known = layout(name)
    for subdirectory in known.subdirectories:
        directory = base / subdirectory
        if all(find_file(directory, file) is not None for file in known.files):
            return directory
    return None


def require(name: DatasetName, root: Path | None) -> Path:
    """Return the directory of a data set, or raise saying how to get it.

    Args:
        name: "fashion-mnist", "cifar-10" or "mnist-test".
        root: if given, the only place to look.

    Raises:
        FileNotFoundError: if the files are not there.
    """
    known = layout(name)
    found = locate(name) if root is None else locate_below(name, root)
    if found is not None:
        return found
    if root is None:
        raise FileNotFoundError(
            f"{name} must be on this machine in full; found it in none of $L2O_DATA, "
            f"{', '.join(map(str, _fixed_places(name)))}. {known.advice}"
        )
    missing = [
        f"{file} (empty)" if (root / file).is_file() else file
        for file in known.files
        if find_file(root, file) is None
    ]
    raise FileNotFoundError(
        f"root must hold {name}; {root} lacks {', '.join(missing)}. {known.advice}"
    )


def _fixed_places(name: DatasetName) -> list[Path]:
    """Return where to look besides $L2O_DATA: system packages, then the cache."""
    places = [*layout(name).system]
    with contextlib.suppress(FileNotFoundError):
        places.append(cache_directory(name))
    return places


def find_file(directory: Path, file: str) -> Path | None:
    """Return the file, or its unpacked form if it ends in .gz, or None.

    An empty file, as a full disk may leave it, does not count.
    """
    for candidate in (directory / file, directory / file.removesuffix(".gz")):
        if candidate.is_file() and candidate.stat().st_size > 0:
            return candidate
    return None
