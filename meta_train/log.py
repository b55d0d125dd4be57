"""JSON lines: one record per line, appended, readable while the run continues."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from l2o.files import write_whole

Record: TypeAlias = dict[str, Any]


class JsonLines:
    """Append-only log; a resumed run drops what came after its checkpoint.

    Args:
        path: the file; created with its folder.
        last_step: keep the existing records up to this outer step; None keeps nothing.

    Raises:
        ValueError: if records are to be kept and a line holds none.
    """

    def __init__(self, path: Path, *, last_step: int | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if last_step is None else read_json_lines(path)
        wanted = [
            record
            for record in kept
            if last_step is not None and record["outer_step"] <= last_step
        ]
        is_whole = path.is_file() and path.read_bytes().endswith(b"\n")
        if last_step is None or wanted != kept or not is_whole:
            # Whole: the present log survives if this fails, on a full disk for one.
            write_json_lines(path, wanted, allow_nan=True)

    def write(self, **values: Any) -> None:
        """Append one record."""
        append_json_line(self.path, values, allow_nan=True)


def read_json_lines(path: Path) -> list[Record]:
    """Return the records of a file; none if there is no file.

    Only a last line without its line break may be damaged: an interrupted write leaves
    such a line, and it is left out. Blank lines are skipped.

    Args:
        path: the file.

    Raises:
        ValueError: if any other line is no JSON object; it names the line.
    """
    if not path.is_file():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse(line)
        if record is None:
            raise ValueError(
                "read_json_lines needs one JSON object per line; got "
                f"{line[:40].decode(errors='replace')!r} in {path}, line {number}. "
                "Repair or remove that line; nothing was written."
            )
        records.append(record)
    record = _parse(last)
    return records if record is None else [*records, record]


def append_json_line(
    path: Path, record: Mapping[str, Any], *, allow_nan: bool = False
) -> None:
    """Append one record; the rest of an interrupted last line is cut off.

    No other line is touched.

    Args:
        path: the file; created with its folder.
        record: values that JSON can hold.
        allow_nan: whether NaN and infinity may be among them.

    Raises:
        ValueError: if a value is NaN or infinite and `allow_nan` is False.
        OSError: if the file cannot be written.
    """
    line = _dump(record, allow_nan)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        tail = _last_line(file)
        if _parse(tail) is not None:
            line = b"\n" + line  # whole, but for its line break
        elif tail:
            file.truncate(file.seek(0, os.SEEK_END) - len(tail))
        file.write(line)


def write_json_lines(
    path: Path, records: Iterable[Mapping[str, Any]], *, allow_nan: bool = False
) -> None:
    """Replace a file, whole or not at all.

    Args:
        path: the file; its folder must exist.
        records: its lines.
        allow_nan: whether NaN and infinity may be among their values.

    Raises:
        ValueError: if a value is NaN or infinite and `allow_nan` is False.
        OSError: if the file cannot be written.
    """
    write_whole(path, b"".join(_dump(record, allow_nan) for record in records))


def _dump(record: Mapping[str, Any], allow_nan: bool) -> bytes:
    return json.dumps(record, allow_nan=allow_nan).encode() + b"\n"


def _parse(line: bytes) -> Record | None:
    """Return the JSON object of a line; None if it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _last_line(file: BinaryIO, chunk: int = 4096) -> bytes:
    """Return what follows the last line break of a file."""
    tail, end = b"", file.seek(0, os.SEEK_END)
    while end and b"\n" not in tail:
        start = max(0, end - chunk)
        file.seek(start)
        tail, end = file.read(end - start) + tail, start
    return tail.rpartition(b"\n")[2]
