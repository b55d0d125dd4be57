"""IDX files, the format of MNIST and FashionMNIST."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from l2o.files import write_whole
from optimizees.files import FileKind

_BYTES_CODE = 8
_FILE = FileKind("read_idx", "an IDX file of unsigned bytes", "Download it again.")


def read_idx(path: Path) -> UInt8[Tensor, "*shape"]:
    """Read a tensor of bytes from one IDX file, gzipped or not.

    Args:
        path: the file.

    Returns:
        A fresh tensor of the shape that the file declares.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty, truncated, too long, damaged or not IDX, or
            unpacks to more than 256 MiB.

    Reference: LeCun, Cortes and Burges, "The MNIST database of handwritten digits",
        http://yann.lecun.com/exdb/mnist/. Only its unsigned-byte type is read.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"read_idx needs an IDX file; found none at {path}. "
            "Fetch it with `l2o data download fashion-mnist`."
        )
    raw = _FILE.read_unpacked(path)
    if len(raw) < 4:
        raise _FILE.error(path, f"it is truncated: {len(raw)} bytes are no header")
    zeros, code, ndim = struct.unpack_from(">HBB", raw)
    if (zeros, code) != (0, _BYTES_CODE):
        raise _FILE.error(
            path, f"its magic is {zeros:04x} {code:02x} instead of 0000 08"
        )
    start = 4 + 4 * ndim
    if len(raw) < start:
        raise _FILE.error(
            path, f"it is truncated: {ndim} dimensions take {start} bytes of header"
        )
    shape = struct.unpack_from(f">{ndim}I", raw, offset=4)
    expected, found = math.prod(shape), len(raw) - start
    if found != expected:
        problem = "it is truncated" if found < expected else "it has trailing bytes"
        raise _FILE.error(
            path, f"{problem}: {found:,} values for shape {shape}, not {expected:,}"
        )
    try:
        values = np.frombuffer(raw, np.uint8, expected, offset=start).reshape(shape)
    except ValueError as error:  # NumPy has at most 64 dimensions
        raise _FILE.error(path, error) from error
    return torch.from_numpy(values)


def write_idx(path: Path, values: UInt8[Tensor, "*shape"]) -> None:
    """Write a tensor of bytes as one gzipped IDX file.

    The same tensor gives the same bytes: no time and no name go into the header.

    Args:
        path: the file; replaced if it exists, whole or not at all.
        values: unsigned bytes of any shape.
    """
    header = struct.pack(
        f">HBB{values.ndim}I", 0, _BYTES_CODE, values.ndim, *values.shape
    )
    body = values.cpu().contiguous().numpy().tobytes()
    write_whole(path, gzip.compress(header + body, compresslevel=9, mtime=0))
