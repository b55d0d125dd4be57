"""Files of data, read without trusting them, and descriptions of populations."""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import safe_open
from torch import Tensor

from l2o.files import printable, write_whole

MOST_BYTES = 2**28
"""Bytes that a reader takes into memory at most, unpacked."""

_MOST_HEADER_BYTES = 2**24
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 2**20
_MOST_LINE_BYTES = 2**16


class DamagedFileError(ValueError):
    """A file of data is damaged, or of another kind; the message names it."""


@dataclass(frozen=True)
class FileKind:
    """One kind of file: how it is read, and the messages for damaged ones."""

    reader: str
    """Public name of the function that reads it; messages begin with it."""
    needs: str
    """What the reader needs, for example `an IDX file`."""
    advice: str
    """What to do about a damaged file, as one sentence."""

    def error(self, path: Path, problem: object) -> DamagedFileError:
        """Return one line that names the file and what is wrong with it."""
        if _is_empty(path):
            problem = "it is empty"
        elif _is_page(path):
            problem = "it is an HTML page, perhaps a server's error message"
        return DamagedFileError(
            f"{self.reader} needs {self.needs}; got {path}: {printable(problem)}. "
            f"{self.advice}"
        )

    def read_bytes(self, path: Path, most: int = MOST_BYTES) -> bytes:
        """Return the whole content.

        Raises:
            DamagedFileError: if the file is empty or has more than `most` bytes.
        """
        size = path.stat().st_size
        if not 0 < size <= most:
            raise self.error(path, f"it has {size:,} bytes, more than {most:,}")
        return path.read_bytes()

    def read_unpacked(self, path: Path, most: int = MOST_BYTES) -> bytearray:
        """Return the content without its gzip layer, if it has one.

        Raises:
            DamagedFileError: if the file is empty or damaged, or unpacks to more than
                `most` bytes.
        """
        raw = self.read_bytes(path, most)
        if raw[:2] != _GZIP_MAGIC:
            return bytearray(raw)
        content = bytearray()
        try:
            with gzip.open(io.BytesIO(raw)) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    content += chunk
                    if len(content) > most:
                        break
        except EOFError as error:
            raise self.error(
                path, "it is truncated: its gzip data end early"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self.error(path, f"its gzip data are damaged ({error})") from error
        if len(content) > most:
            raise self.error(path, f"it unpacks to more than {most:,} bytes")
        if _is_page_start(content):
            raise self.error(path, "it is a packed HTML page, not data")
        return content

    def read_lines(self, path: Path, most: int = 2 * MOST_BYTES) -> Iterator[str]:
        """Yield the lines of a text in UTF-8, gzipped or not, one at a time.

        Raises:
            DamagedFileError: if the file is empty, damaged or no text, has a line of
                over 64 KiB, or unpacks to more than `most` bytes.
        """
        with path.open("rb") as raw:
            is_packed = raw.read(2) == _GZIP_MAGIC
        if _is_empty(path) or _is_page(path):
            raise self.error(path, "it is no text")
        done = 0
        try:
            with gzip.open(path) if is_packed else path.open("rb") as file:
                while line := file.readline(_MOST_LINE_BYTES):
                    done += len(line)
                    if len(line) == _MOST_LINE_BYTES or done > most:
                        raise self.error(
                            path, f"a line is too long, or all are over {most:,} bytes"
                        )
                    yield line.decode()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.error(path, f"its gzip data are damaged ({error})") from error
        except UnicodeDecodeError as error:
            raise self.error(path, "it is no text in UTF-8") from error

    def read_json(self, path: Path) -> Any:
        """Return the value in a JSON file.

        Raises:
            DamagedFileError: if it is no JSON.
        """
        return self.parse_json(path, self.read_bytes(path))

    def parse_json(self, path: Path, text: str | bytes) -> Any:
        """Return the value of a JSON text in a file.

        Raises:
            DamagedFileError: if it is no JSON.
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.error(path, f"it holds no JSON ({error})") from error

    def read_tensors(
        self, path: Path, most: int = MOST_BYTES
    ) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Return metadata and tensors of a safetensors file.

        Raises:
            DamagedFileError: if it is none, is damaged or has more than `most` bytes.
        """
        size = path.stat().st_size
        if size > most or _header_bytes(path) > _MOST_HEADER_BYTES:
            raise self.error(path, f"it has {size:,} bytes or claims too long a header")
        try:
            with safe_open(path, framework="pt") as file:
                # Copies: what is mapped from a file that shrinks ends the process.
                names = list(file.keys())
                tensors = {name: file.get_tensor(name).clone() for name in names}
                return file.metadata() or {}, tensors
        except Exception as error:  # an unknown type of number is an AttributeError
            raise self.error(path, f"it cannot be read ({error})") from error

    def read_checkpoint(self, path: Path, most: int = MOST_BYTES) -> Any:
        """Return what `torch.save` wrote, on the CPU, without running code in it.

        Raises:
            DamagedFileError: if it is none, is damaged, unpacks to more than `most`
                bytes or holds other than tensors, plain values and allowed classes.
        """
        try:
            with zipfile.ZipFile(path) as file:
                size = sum(item.file_size for item in file.infolist())
        except Exception as error:  # zipfile does not say which errors damage causes
            raise self.error(path, f"it cannot be read ({error})") from error
        if size > most:
            raise self.error(path, f"it unpacks to {size:,} bytes, more than {most:,}")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # as above, of torch
            raise self.error(path, f"it cannot be read ({error})") from error


def is_plain_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value of a checkpoint is a dense tensor whose values can be read."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def holds_tensors(path: Path) -> bool:
    """Return whether there is a safetensors file of the length that its header states.

    An empty or truncated file, as a crash of the machine may leave it, is none.
    """
    try:
        with safe_open(path, framework="pt"):
            return True
    except Exception:  # whatever is wrong, it must be made again
        return False


def has_files(folder: Path, pattern: str) -> bool:
    """Whether a folder holds a file of such a name that is not empty."""
    return any(path.stat().st_size for path in folder.glob(pattern))


def settle_description(
    path: Path, description: dict[str, Any], *, is_binding: bool
) -> None:
    """Write how a population is made, or check that the one there is made so.

    Args:
        path: the JSON file of the population.
        description: what must not differ, as JSON values.
        is_binding: whether a part of the population is there; a description alone,
            which a failed command left, is replaced.

    Raises:
        ValueError: if something differs, or the file is damaged.
    """
    wanted = json.loads(json.dumps(description))
    if not is_binding or not path.is_file():
        write_whole(path, (json.dumps(wanted, indent=2) + "\n").encode())
        return
    kind = FileKind(
        "settle_description",
        "a JSON object that says how its population was made",
        "Delete the population, or restore the file.",
    )
    found = kind.read_json(path)
    if not isinstance(found, dict):
        raise kind.error(path, "it holds no JSON object")
    differing = [name for name in wanted if wanted[name] != found.get(name)]
    if differing:
        raise ValueError(
            f"a generation must go on with the settings in {path}; got others for "
            f"{', '.join(differing)}. Repeat them, or choose another directory."
        )


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _is_page(path: Path) -> bool:
    """Whether a file begins as an HTML page does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _is_page_start(file.read(1000))


def _is_page_start(content: bytes | bytearray) -> bool:
    start = bytes(content[:1000]).lstrip().lower()
    return start[:1] == b"<" and b"html" in start


def _header_bytes(path: Path) -> int:
    """Return the length of the header that a safetensors file states."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")
