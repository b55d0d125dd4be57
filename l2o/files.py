"""Files: written whole or not at all, and text from them made safe to show."""

import contextlib
import io
import json
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all; make its folder.

    The content is on the disk before the name refers to it. A new file gets the
    permissions that the umask leaves; one that replaces another keeps the other's. A
    symbolic link stays, and what it leads to is replaced.

    Args:
        path: where to write.
        content: all bytes of the file.

    Raises:
        OSError: if there is no room or no permission; what was there survives.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:100]}.{os.urandom(6).hex()}.part")
    try:
        with part.open("xb") as file:
            with contextlib.suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(path.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values as one file, whole or not at all.

    Args:
        path: where to write.
        state: what `torch.load(weights_only=True)` can read back.

    Raises:
        OSError: if there is no room or no permission; what was there survives.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def read_state(path: Path) -> dict[str, Any]:
    """Return what `write_state` wrote, on the CPU; no code from the file runs.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is damaged.
    """
    import torch

    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch does not say which errors damage causes
            raise ValueError(f"{path} cannot be read ({printable(error)})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} cannot be read (it holds a {type(state).__name__})")
    return state


def remove_unfinished(folder: Path) -> None:
    """Remove what writes left behind that a kill or a power cut ended.

    Args:
        folder: one that no other process writes into.
    """
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text from a file that need not be trusted.

    Raises:
        ValueError: if it is no JSON, nests too deeply, or names a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def printable(text: object, most: int = 200) -> str:
    r"""Return text from a file or a server as one line that a terminal only shows.

    Control characters, line breaks and marks that reorder text become escapes; a long
    text is cut.

    Args:
        text: anything; shown as `str` shows it.
        most: characters to keep.

    Example:
        >>> printable("red\x1b[31m")
        'red\\x1b[31m'
    """
    whole = str(text)
    shown = whole if len(whole) <= most else whole[:most] + "..."
    return "".join(
        character if character == " " or _is_plain(character) else _escaped(character)
        for character in shown
    )


def _is_plain(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these members, each named once."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("it names a key twice")
    return values


def _sync_folder(folder: Path) -> None:
    """Put a rename on the disk, where the system can do that for a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
