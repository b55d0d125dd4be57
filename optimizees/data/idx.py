"""IDX files, the format of MNIST and FashionMNIST."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

_GZIP_MAGIC = b"\x1f\x8b"
_BYTES_CODE = 8


def read_idx(path: Path) -> UInt8[Tensor, "*shape"]:
    """Read a tensor of bytes from one IDX file, gzipped or not.

    Args:
        path: the file.

    Returns:
        A fresh tensor of the shape that the file declares.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, too long, damaged or not IDX.

    Reference: LeCun, Cortes and Burges, "The MNIST database of handwritten digits",
        http://yann.lecun.com/exdb/mnist/. Only its unsigned-byte type is read.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"read_idx needs an IDX file; found none at {path}. "
            "Fetch it with `l2o data download fashion-mnist`."
        )
    raw = _unpacked(path)
    if len(raw) < 4:
        raise ValueError(
            f"read_idx needs a header of at least 4 bytes; got {len(raw)} in {path}. "
            "The file is truncated: download it again."
        )
    zeros, code, ndim = struct.unpack_from(">HBB", raw)
    if (zeros, code) != (0, _BYTES_CODE):
        raise ValueError(
            f"read_idx needs unsigned bytes (magic 0000 08); got {zeros:04x} "
            f"{code:02x} in {path}. {_likely_cause(raw)}"
        )
    start = 4 + 4 * ndim
    if len(raw) < start:
        raise ValueError(
            f"read_idx needs {start} bytes of header for {ndim} dimensions; got "
            f"{len(raw)} in {path}. The file is truncated: download it again."
        )
    shape = struct.unpack_from(f">{ndim}I", raw, offset=4)
    expected, found = math.prod(shape), len(raw) - start
    if found != expected:
        problem = "is truncated" if found < expected else "has trailing bytes"
        raise ValueError(
            f"read_idx needs {expected:,} values for shape {shape}; got {found:,} in "
            f"{path}. The file {problem}: download it again."
        )
    values = np.frombuffer(raw, np.uint8, expected, offset=start)
    return torch.from_numpy(values.reshape(shape).copy())


def write_idx(path: Path, values: UInt8[Tensor, "*shape"]) -> None:
    """Write a tensor of bytes as one gzipped IDX file.

    The same tensor gives the same bytes: no time and no name go into the header.

    Args:
        path: the file; replaced if it exists.
        values: unsigned bytes of any shape.
    """
    header = struct.pack(
        f">HBB{values.ndim}I", 0, _BYTES_CODE, values.ndim, *values.shape
    )
    body = values.cpu().contiguous().numpy().tobytes()
    path.write_bytes(gzip.compress(header + body, compresslevel=9, mtime=0))


def _unpacked(path: Path) -> bytes:
    """Return the file's content without its gzip layer, if it has one."""
    raw = path.read_bytes()
    if raw[:2] != _GZIP_MAGIC:
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError as error:
        raise ValueError(
            f"read_idx needs a whole gzip file; {path} ends early. "
            "The file is truncated: download it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"read_idx needs an undamaged gzip file; got {error} in {path}. "
            "The file is corrupt: download it again."
        ) from error


def _likely_cause(raw: bytes) -> str:
    """Say what the file probably is, and what to do."""
    if raw.lstrip()[:1] == b"<":
        return (
            "This is an HTML page, not data: a server answered with an error page. "
            "Download it again."
        )
    return "Is it another kind of file? Download it again."
