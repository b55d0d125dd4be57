"""Sets of networks that are images: in memory, and as files of our own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save
from torch import Tensor

from l2o.files import printable
from optimizees.files import FileKind
from optimizees.siren import siren_shapes

FORMAT = "l2o-siren-fits-1"
"""Stands in the header of every file of fits."""

_SHAPES = siren_shapes()
_BESIDE = ("labels", "indices", "images", "errors")
"""What a file holds besides parameters."""
_DTYPES = {"labels": torch.int64, "indices": torch.int64, "images": torch.uint8}
"""Types of what is not float32."""
_NONE = torch.empty(0, 0)
"""Stands for a tensor that is missing."""
_FILE = FileKind(
    "read_fits",
    "whole files of `l2o data siren-fits`",
    "Delete it and run the command again, which fits what is missing.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class InrSet:
    """Networks of one shape, each of which is an image of a known class."""

    networks: dict[str, Tensor]
    """Parameters by their names in `Siren`, with a leading axis N."""
    labels: Int[Tensor, " N"]
    """Class of each image, int64."""
    indices: Int[Tensor, " N"]
    """Number of each image in the data set that it comes from."""
    images: UInt8[Tensor, "N 28 28"] | None
    """The images that the networks were fitted to, if they are known."""
    errors: Float[Tensor, " N"] | None
    """Mean squared error of the pixels, as fractions of white, if it is known."""
    source: str
    """Which data this is, as a sentence to quote with a result."""

    def __post_init__(self) -> None:
        lengths = {len(weight) for weight in self.networks.values()}
        if lengths != {len(self.labels)} or len(self.indices) != len(self.labels):
            raise ValueError(
                "InrSet needs one label and one index per network; got "
                f"{len(self.labels)} labels, {len(self.indices)} indices and tensors "
                f"of {sorted(lengths)} networks. Pass parts of the same set."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: slice | Int[Tensor, " M"], name: str) -> "InrSet":
        """Return some of the networks.

        Args:
            chosen: which, as a slice or as places in this set.
            name: says which these are, behind the source.
        """
        return replace(
            self,
            networks={key: weight[chosen] for key, weight in self.networks.items()},
            labels=self.labels[chosen],
            indices=self.indices[chosen],
            images=None if self.images is None else self.images[chosen],
            errors=None if self.errors is None else self.errors[chosen],
            source=f"{self.source}, {name}",
        )

    def psnr(self) -> Float[Tensor, " N"]:
        """Return how close each network comes to its image, in decibels.

        Raises:
            ValueError: if the errors are not known.
        """
        if self.errors is None:
            raise ValueError(
                f"InrSet.psnr needs the errors of the fits; got none from {self.source}"
                ". Compare render_images(networks) with the images instead."
            )
        return -10 * self.errors.clamp_min(1e-12).log10()


def pack_fits(fits: InrSet, metadata: Mapping[str, Any]) -> bytes:
    """Return a file of fits as bytes, in the safetensors format.

    Besides the parameters it holds `labels`, `indices`, `errors` and `images`.

    Args:
        fits: the networks, with their images and errors.
        metadata: JSON values for the header.
    """
    assert fits.images is not None
    assert fits.errors is not None
    tensors = {
        **fits.networks,
        "labels": fits.labels,
        "indices": fits.indices,
        "images": fits.images,
        "errors": fits.errors,
    }
    header = {name: json.dumps(value) for name, value in metadata.items()}
    contiguous = {name: item.contiguous() for name, item in tensors.items()}
    return save(contiguous, {"format": FORMAT, **header})


def read_fits(path: Path) -> InrSet:
    """Read fits from one file, or from all files of a folder in their order.

    Args:
        path: a file that `pack_fits` made, or the folder that `l2o data siren-fits`
            filled or is filling.

    Returns:
        The networks, as many as are there.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if a file is damaged.
    """
    files = part_files(path) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(
            f"read_fits needs a file of fits or a folder with some; found none at "
            f"{path}. Make them with `l2o data siren-fits`."
        )
    sources = [str(read_header(file).get("source", "unknown")) for file in files]
    parts = [_read_tensors(file) for file in files]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    named = {key: joined.pop(key) for key in _BESIDE}
    return InrSet(
        networks=joined,
        source=f"{printable(sources[0])} ({len(named['labels']):,} networks)",
        **named,
    )


def load_embedded_fits() -> InrSet:
    """Load the 48 fits of digits that come with the library.

    They are the first of what `l2o data siren-fits` makes: enough to try things out.

    Example:
        >>> fits = load_embedded_fits()
        >>> len(fits), fits.labels[:5].tolist()
        (48, [7, 2, 1, 0, 4])
    """
    file = resources.files("optimizees.zoo") / "embedded" / "digits.safetensors"
    with resources.as_file(file) as path:
        return read_fits(path)


def part_files(folder: Path) -> list[Path]:
    """Return the files of fits in a folder, in the order of their images."""
    return sorted(folder.glob("part-*.safetensors"))


def read_header(path: Path) -> dict[str, Any]:
    """Return the metadata of a file of fits.

    Raises:
        ValueError: if it is damaged or something else.
    """
    header, _ = _FILE.read_tensors(path)
    if header.pop("format", None) != FORMAT:
        raise _FILE.error(path, f"its format is not {FORMAT}")
    return {name: _FILE.parse_json(path, value) for name, value in header.items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read one file and check names, shapes, types and classes."""
    _, tensors = _FILE.read_tensors(path)
    expected = {
        **_SHAPES,
        "labels": (),
        "indices": (),
        "images": (28, 28),
        "errors": (),
    }
    count = len(tensors["labels"]) if tensors.get("labels", _NONE).ndim == 1 else 0
    for name, shape in expected.items():
        found = tensors.get(name, _NONE)
        if found.shape != (count, *shape):
            raise _FILE.error(
                path, f"{name} is {tuple(found.shape)} instead of {(count, *shape)}"
            )
        wanted = _DTYPES.get(name, torch.float32)
        if found.dtype != wanted:
            raise _FILE.error(path, f"{name} is of {found.dtype} instead of {wanted}")
    if not count or not bool(
        ((tensors["labels"] >= 0) & (tensors["labels"] < 10)).all()
    ):
        raise _FILE.error(path, "a class is not one of 0 to 9, or there is none")
    if tensors.keys() != expected.keys():
        raise _FILE.error(path, f"it holds {sorted(tensors.keys() - expected.keys())}")
    return tensors
