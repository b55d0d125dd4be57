"""Read the networks that Navon et al. fitted to MNIST and FashionMNIST."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from optimizees.files import FileKind, is_plain_tensor
from optimizees.siren import siren_shapes
from optimizees.zoo.inr_set import InrSet

ArchiveName: TypeAlias = Literal["mnist-inrs", "fmnist-inrs"]
SplitName: TypeAlias = Literal["train", "validation", "test"]

_SHAPES = siren_shapes()
_KEYS: dict[SplitName, str] = {"train": "train", "validation": "val", "test": "test"}
_VALIDATION_SHARE = 12
"""One in this many training networks is for validation where no file of splits says
which are."""
_NUM_CLASSES = 10
_ADVICE = (
    "Unpack the archive that https://github.com/AvivNavon/DWSNets links to, and pass "
    "its folder."
)
_FILE = FileKind(
    "read_archive", "networks of 2-32-32-1 neurons", "Unpack the archive again."
)


@dataclass(frozen=True, order=True)
class _Entry:
    """One file of an archive."""

    index: int
    """Number of the image."""
    label: int | None
    """Its class, if the path says so; else the file does."""
    path: Path


def read_archive(
    name: ArchiveName,
    root: Path,
    split: SplitName,
    *,
    splits: Path | None = None,
    limit: int | None = None,
) -> InrSet:
    """Read one split of a published data set of implicit representations.

    Args:
        name: "mnist-inrs" has a folder per network, which is named after class and
            number: `mnist_png_training_5_0/*/*.pth`. "fmnist-inrs" has
            `train/model_0.pth` and `test/model_0.pth`, files that hold the class.
        root: the folder of those, or one above it.
        split: which part.
        splits: a JSON file {"train": {"path": [...]}, "val": ..., "test": ...} whose
            paths are compared by their last parts; None looks for `splits.json` and
            `mnist_splits.json` in `root`. Without one the last twelfth of the training
            networks, by number, is for validation.
        limit: how many networks to read, the first ones; None for all.

    Returns:
        The networks, without images.

    Raises:
        FileNotFoundError: if the folder holds no such archive.
        ValueError: if a file is damaged or holds something else.

    Reference:
        Navon et al., 2023, https://arxiv.org/abs/2301.12780, code and links at
        https://github.com/AvivNavon/DWSNets.
    """
    folder, entries = _entries(name, root, "testing" if split == "test" else "training")
    found = splits or _find_splits(root, folder)
    if found is not None:
        entries = _chosen(entries, found, split)
    elif split != "test":
        held_out = len(entries) // _VALIDATION_SHARE
        cut = len(entries) - held_out
        entries = entries[:cut] if split == "train" else entries[cut:]
    if limit is not None:
        entries = entries[:limit]
    if not entries:
        raise FileNotFoundError(
            f"read_archive needs networks for {split}; found none in {folder}. "
            f"{_ADVICE}"
        )
    loaded = [_load(entry) for entry in entries]
    return InrSet(
        networks={
            key: torch.stack([item[key] for item, _ in loaded]) for key in _SHAPES
        },
        labels=torch.tensor([label for _, label in loaded]),
        indices=torch.tensor([entry.index for entry in entries]),
        images=None,
        errors=None,
        source=f"{name} of Navon et al. ({len(entries):,} {split} networks)",
    )


def _entries(
    name: ArchiveName, root: Path, part: Literal["training", "testing"]
) -> tuple[Path, list[_Entry]]:
    """Return the folder of an archive and the files of one part, by number."""
    for folder in (root, root / name, root / name.replace("-", "_")):
        found = sorted(
            _mnist_entries(folder, part)
            if name == "mnist-inrs"
            else _fashion_entries(folder, part)
        )
        if found:
            return folder, found
    raise FileNotFoundError(
        f"read_archive needs {part} networks of {name}; found none in {root}. {_ADVICE}"
    )


def _mnist_entries(folder: Path, part: str) -> Iterator[_Entry]:
    for path in folder.glob(f"mnist_png_{part}_*_*/*/*.pth"):
        named = re.fullmatch(r".*_([0-9])_([0-9]{1,9})", path.parents[1].name)
        if named is not None:
            yield _Entry(int(named[2]), int(named[1]), path)


def _fashion_entries(folder: Path, part: str) -> Iterator[_Entry]:
    place = folder / ("train" if part == "training" else "test")
    for path in place.glob("model_*.pth"):
        number = re.fullmatch(r"model_([0-9]{1,9})", path.stem)
        if number is not None:
            yield _Entry(int(number[1]), None, path)


def _find_splits(*folders: Path) -> Path | None:
    """Return the file that says which networks are for validation, if there is one."""
    for folder in folders:
        for file in ("splits.json", "mnist_splits.json"):
            if (folder / file).is_file():
                return folder / file
    return None


def _chosen(entries: Sequence[_Entry], splits: Path, split: SplitName) -> list[_Entry]:
    """Return the files that a list of splits names."""
    kind = FileKind(
        "read_archive",
        f'splits as {{"{_KEYS[split]}": {{"path": [...]}}}}',
        "Pass another file.",
    )
    values = kind.read_json(splits)
    try:
        wanted = {_tail(Path(item)) for item in values[_KEYS[split]]["path"]}
    except (KeyError, TypeError, IndexError) as error:
        raise kind.error(splits, f"that is missing ({error!r})") from error
    found = [entry for entry in entries if _tail(entry.path) in wanted]
    if len(found) != len(wanted):
        raise ValueError(
            f"read_archive needs the {len(wanted):,} networks that {splits} lists for "
            f"{split}; found {len(found):,} of them. {_ADVICE}"
        )
    return found


def _tail(path: Path) -> tuple[str, ...]:
    """Return the end of a path by which one machine's files are another's."""
    return path.parts[-3:] if "mnist_png" in str(path) else path.parts[-2:]


def _load(entry: _Entry) -> tuple[dict[str, Tensor], int]:
    """Return the parameters and the class of one network."""
    held: Any = _FILE.read_checkpoint(entry.path)
    if not isinstance(held, dict):
        raise _FILE.error(entry.path, f"it holds a {type(held).__name__}")
    label = entry.label if entry.label is not None else held.get("label")
    if label is None:
        raise _FILE.error(entry.path, "it holds no label")
    if is_plain_tensor(label) and label.numel() == 1:
        label = label.item()
    if not isinstance(label, int) or not 0 <= label < _NUM_CLASSES:
        raise _FILE.error(entry.path, f"its label is {label!r}, not one of 0 to 9")
    params: dict[str, Tensor] = {}
    for name, shape in _SHAPES.items():
        weight = held.get(name)
        if not is_plain_tensor(weight) or tuple(weight.shape) != shape:
            got = "nothing" if weight is None else tuple(getattr(weight, "shape", ()))
            raise _FILE.error(entry.path, f"{name} is {got} instead of {shape}")
        if not weight.is_floating_point() or not bool(weight.isfinite().all()):
            raise _FILE.error(entry.path, f"{name} holds other than finite numbers")
        params[name] = weight.to(torch.float32)
    return params, label
