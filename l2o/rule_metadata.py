"""Names, paths and metadata of rule files; reading them needs no torch."""

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from l2o.files import parse_json, printable

FORMAT = "l2o-rule-2"
FORMAT_WITHOUT_HASH = "l2o-rule-1"
HASH = "sha256"
"""Metadata key of the checksum over everything else."""
_MOST_HEADER_BYTES = 2**24
"""Largest header that is read: names, shapes, configuration and provenance."""


def shipped_rules() -> list[str]:
    """Return the names of the rules that come with the library.

    Returns:
        Names that `load_rule` and `NeuralGraphOpt(rule=...)` take, sorted.

    Example:
        >>> "ng-gnn" in shipped_rules()
        True
    """
    return sorted(shipped_files())


def rule_path(name_or_path: object) -> Path:
    """Return the file that `load_rule` reads.

    Args:
        name_or_path: as for `load_rule`; anything else is refused.

    Raises:
        FileNotFoundError: if it is neither a shipped rule nor a file.
        TypeError: if it is neither text nor a path.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            "load_rule needs a name or a path; got "
            f"{type(name_or_path).__name__} {printable(repr(name_or_path), 40)}. Pass "
            f"one of {shipped_rules()}, or the path of a rule file."
        )
    shipped = shipped_files().get(str(name_or_path))
    if shipped is not None:
        return shipped
    path = Path(name_or_path)
    try:
        is_file = path.is_file()
    except OSError:  # the name is too long, or a folder may not be entered
        is_file = False
    if not is_file:
        raise FileNotFoundError(
            f"load_rule needs a shipped rule {shipped_rules()} or a rule file; got "
            f"{printable(repr(str(name_or_path)))}, which is neither. Check the "
            "spelling, or write the file with save_rule."
        )
    return path


@contextmanager
def opened(
    path: Path, framework: Literal["np", "pt"]
) -> Iterator[tuple[Any, dict[str, str]]]:
    """Give an open rule file and its metadata; nothing of theta is read yet."""
    with path.open("rb") as raw:
        header_size = int.from_bytes(raw.read(8), "little")
    if header_size > _MOST_HEADER_BYTES:
        raise unreadable(path, f"its header claims {header_size:,} bytes")
    try:
        with safe_open(path, framework=framework) as file:
            metadata = file.metadata() or {}
            _check_metadata(path, metadata)
            yield file, metadata
    except SafetensorError as error:
        raise unreadable(path, error) from error


def tensor_shapes(file: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of an open file."""
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def parse_provenance(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return how theta came about, and its licence under the key `license`.

    Args:
        path: the rule file, for the message of an error.
        metadata: of that file.

    Raises:
        ValueError: if the provenance is no JSON object.
    """
    try:
        known = parse_json(metadata.get("provenance", "{}"))
    except ValueError as error:
        raise unreadable(path, f"its provenance is no JSON: {error}") from error
    if not isinstance(known, dict):
        raise unreadable(path, "its provenance is no JSON object")
    return {**known, "license": metadata.get("license", "unknown")}


def shipped_files() -> dict[str, Path]:
    """Return the files of the shipped rules by name."""
    return {path.stem: path for path in shipped_folder().glob("*.safetensors")}


@functools.cache
def shipped_folder() -> Path:
    """Return where the shipped rules are."""
    # Not `files("l2o.rule")`, which would import that package and torch with it.
    return Path(str(resources.files("l2o"))) / "rule" / "weights"


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise unless the metadata are those of a rule, of a format that is known."""
    if not {"config", "format"} <= metadata.keys():
        raise ValueError(
            f"load_rule needs a file that save_rule wrote; got {path}, whose metadata "
            f"holds {printable(sorted(metadata))} and no rule configuration. Save a "
            "rule with save_rule."
        )
    if metadata["format"] not in (FORMAT, FORMAT_WITHOUT_HASH):
        raise ValueError(
            f"load_rule reads the formats {FORMAT_WITHOUT_HASH} and {FORMAT}; got "
            f"{printable(repr(metadata['format']))} in {path}. Install the version of "
            "l2o that wrote it."
        )
    if metadata["format"] == FORMAT and HASH not in metadata:
        raise unreadable(path, "its checksum is missing")


def unreadable(path: Path, problem: object) -> ValueError:
    """Return the error for a damaged file, to be raised."""
    return ValueError(
        f"load_rule needs a whole safetensors file; got {path}, which cannot be read "
        f"({printable(problem)}). It may be damaged: copy or download it again."
    )
