"""Which networks the benchmarks learn from, and which they are tested on."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, assert_never

import torch

from optimizees.zoo.inr_archives import ArchiveName, read_archive
from optimizees.zoo.inr_set import InrSet, load_embedded_fits, read_fits

DataName: TypeAlias = Literal[
    "digits", "fashion", "mnist-archive", "fashion-archive", "embedded"
]

_COUNTS: dict[DataName, tuple[int, int, int]] = {
    "digits": (8_000, 1_000, 1_000),
    "fashion": (15_000, 1_000, 4_000),
    "mnist-archive": (55_000, 5_000, 10_000),
    "fashion-archive": (55_000, 5_000, 10_000),
    "embedded": (32, 8, 8),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set of networks, cut into three.

    The archives come cut, and FashionMNIST's test images are for testing. MNIST's test
    images, all that there is of digits, are shuffled before, the same way every time:
    the later ones are from other writers than the first.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: DataName = "digits"
    """`digits` and `fashion`: what `l2o data siren-fits` made. The archives: those of
    Navon et al. `embedded`: the 48 fits that come with the library."""
    root: Path = Path("runs/inr")
    """Folder of the sets: of ours, those of `mnist-test`, `fashion-train` and
    `fashion-test`."""
    train: int | None = None
    """Networks to train on, the first ones; by default all that are meant for it."""
    validation: int | None = None
    """Networks to select on, those that follow."""
    test: int | None = None
    """Networks to test on: those that follow, or the first ones of the test set."""
    without_embedded: bool = False
    """Whether the fits of digits that come with the library are left out, so that what
    is trained can be tried on them."""

    def __post_init__(self) -> None:
        if min(self.counts) < 1:
            raise ValueError(
                "DataConfig needs at least one network for each purpose; got "
                f"train, validation, test = {self.counts}. Choose positive numbers."
            )
        if self.without_embedded and self.name != "digits":
            raise ValueError(
                "DataConfig without_embedded is for digits, of which some come with "
                f"the library; got name={self.name!r}. Leave it out."
            )

    @property
    def counts(self) -> tuple[int, int, int]:
        """Networks for training, validation and test."""
        given = (self.train, self.validation, self.test)
        train, validation, test = (
            default if count is None else count
            for count, default in zip(given, _COUNTS[self.name], strict=True)
        )
        return train, validation, test


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three parts of a data set."""

    train: InrSet
    """To learn from."""
    validation: InrSet
    """To select on."""
    test: InrSet
    """To be judged on."""


def load_splits(config: DataConfig) -> Splits:
    """Load a data set.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it has too few networks.
    """
    train, validation, test = config.counts
    match config.name:
        case "embedded":
            fits, tests = load_embedded_fits(), None
        case "digits":
            fits, tests = read_fits(config.root / "mnist-test"), None
            if config.without_embedded:
                is_new = ~torch.isin(fits.indices, load_embedded_fits().indices)
                fits = fits.select(is_new.nonzero()[:, 0], "without the embedded")
            fits = _shuffled(fits)
        case "fashion":
            fits = read_fits(config.root / "fashion-train")
            tests = read_fits(config.root / "fashion-test")
        case "mnist-archive":
            return _archive_splits("mnist-inrs", config)
        case "fashion-archive":
            return _archive_splits("fmnist-inrs", config)
        case _:
            assert_never(config.name)
    held_out = train + validation
    return Splits(
        train=_between(fits, 0, train),
        validation=_between(fits, train, held_out),
        test=(
            _between(fits, held_out, held_out + test)
            if tests is None
            else _between(tests, 0, test)
        ),
    )


def _archive_splits(name: ArchiveName, config: DataConfig) -> Splits:
    train, validation, test = config.counts
    return Splits(
        train=read_archive(name, config.root, "train", limit=train),
        validation=read_archive(name, config.root, "validation", limit=validation),
        test=read_archive(name, config.root, "test", limit=test),
    )


def _shuffled(fits: InrSet) -> InrSet:
    order = torch.randperm(len(fits), generator=torch.Generator().manual_seed(0))
    return fits.select(order, "shuffled")


def _between(fits: InrSet, start: int, stop: int) -> InrSet:
    if len(fits) < stop:
        raise ValueError(
            f"load_splits needs {stop:,} networks; got {fits.source}. Make more with "
            "`l2o data siren-fits`, or lower --data.train, --data.validation or "
            "--data.test."
        )
    return fits.select(slice(start, stop), f"{start:,} to {stop - 1:,}")
