"""Fetch data sets from their official addresses, and check files on disk."""

import gzip
import hashlib
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from l2o.files import write_whole
from optimizees.data import cifar
from optimizees.data.layouts import (
    DatasetName,
    cache_directory,
    find_file,
    layout,
    locate,
    locate_below,
)

__all__ = ["ORIGINS", "Origin", "Progress", "download", "locate", "verify"]

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes so far, and all its bytes if known."""

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 30
_MOST_BYTES = 2**30
"""Bytes that are taken from a server for one file."""


@dataclass(frozen=True)
class Origin:
    """Where a data set comes from, and how its files are recognised."""

    base_url: str
    """Address of the directory that holds the files."""
    files: dict[str, str]
    """SHA-256 of every file as it is served."""
    contents: dict[str, str]
    """SHA-256 of what is in a gzipped file, which another compression keeps."""


ORIGINS: dict[str, Origin] = {
    "fashion-mnist": Origin(
        base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        files={
            "train-images-idx3-ubyte.gz": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            "train-labels-idx1-ubyte.gz": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        },
        contents={
            "train-images-idx3-ubyte.gz": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte.gz": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
    ),
    "cifar-10": Origin(
        base_url="https://www.cs.toronto.edu/~kriz",
        files={
            "cifar-10-binary.tar.gz": (
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
            ),
        },
        contents={},
    ),
    "mnist-test": Origin(
        base_url="https://ossci-datasets.s3.amazonaws.com/mnist",
        files={
            "mnist-t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "mnist-t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
        contents={
            "mnist-t10k-images-idx3-ubyte.gz": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "mnist-t10k-labels-idx1-ubyte.gz": (
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        },
    ),
}


def download(
    name: DatasetName,
    dest: Path | None = None,
    *,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a data set and check every file before it gets its name.

    A file that is there already and whose checksum is right is not fetched again, so
    an interrupted run continues with the first file that is missing. No existing file
    is replaced by an unchecked one.

    Args:
        name: "fashion-mnist" (31 MB), "cifar-10" (170 MB, unpacked 184 MB) or
            "mnist-test" (2 MB).
        dest: the directory to fill; None takes the cache that the loaders look in.
        base_url: a mirror; None takes the official address. The checksums stay.
        progress: called after every chunk.

    Returns:
        The directory that holds the files.

    Raises:
        ConnectionError: if the server cannot be reached, answers with an error or
            hangs up early.
        ValueError: if the name is unknown or a checksum is wrong.
    """
    layout(name)
    origin = ORIGINS[name]
    directory = cache_directory(name) if dest is None else dest
    directory.mkdir(parents=True, exist_ok=True)
    base = (origin.base_url if base_url is None else base_url).rstrip("/")
    if name == "cifar-10":
        return _download_cifar(origin, base, directory, progress)
    for file, expected in origin.files.items():
        path = directory / file
        if path.is_file() and _is_known(path, expected, origin.contents.get(file)):
            continue
        with _temporary(path) as partial:
            served = file.removeprefix("mnist-")
            _fetch(f"{base}/{served}", partial, file, expected, progress)
            partial.replace(path)
    return directory


def verify(name: DatasetName, root: Path) -> list[str]:
    """Say for every file of a data set whether it is the official one.

    Args:
        name: "fashion-mnist", "cifar-10" or "mnist-test".
        root: the directory to look in and below, as the loaders do.

    Returns:
        One sentence per file: its name, a colon, then "ok", "missing" or "differs".

    Raises:
        ValueError: if the name is unknown.
    """
    files = layout(name).files
    directory = locate_below(name, root) or root
    if name == "cifar-10":
        return [_cifar_state(directory / file) for file in files]
    origin = ORIGINS[name]
    return [
        _state(file, find_file(directory, file), origin.files[file], origin.contents)
        for file in files
    ]


def _download_cifar(
    origin: Origin, base: str, directory: Path, progress: Progress | None
) -> Path:
    """Fetch the archive and unpack the files that the loader reads."""
    ((archive, expected),) = origin.files.items()
    target = directory / "cifar-10-batches-bin"
    files = layout("cifar-10").files
    if all(_is_official_cifar(target / file) for file in files):
        return target
    with _temporary(directory / archive) as partial:
        _fetch(f"{base}/{archive}", partial, archive, expected, progress)
        target.mkdir(exist_ok=True)
        with tarfile.open(partial, "r:gz") as packed:
            members = {Path(member.name).name: member for member in packed}
            for file in files:
                content = packed.extractfile(members[file])
                assert content is not None  # the checksum fixes what is in there
                write_whole(target / file, content.read())
    return target


def _fetch(
    url: str, dest: Path, file: str, expected: str, progress: Progress | None
) -> None:
    """Fetch `url` into `dest` and check it."""
    digest = hashlib.sha256()
    received = 0
    beginning = b""
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
            dest.open("wb") as out,
        ):
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                beginning = beginning or chunk[:100]
                received += len(chunk)
                if received > _MOST_BYTES:
                    raise HTTPException(f"more than {_MOST_BYTES:,} bytes")
                if progress is not None:
                    progress(file, received, total)
            out.flush()
            os.fsync(out.fileno())
    except (
        urllib.error.URLError,
        HTTPException,
        ConnectionError,
        TimeoutError,
    ) as error:
        raise ConnectionError(
            f"download needs to reach {url}; got {error}. Check the network, or pass "
            "base_url of a mirror, or copy the files by hand and set L2O_DATA."
        ) from error
    if total is not None and received < total:
        raise ConnectionError(
            f"download needs {total:,} bytes from {url}; the server hung up after "
            f"{received:,}. Run the same command again."
        )
    if digest.hexdigest() != expected:
        page = beginning.lstrip()[:1] == b"<"
        cause = "This is an HTML page, not data: " if page else ""
        raise ValueError(
            f"download needs {file} with SHA-256 {expected}; got {digest.hexdigest()} "
            f"({received:,} bytes) from {url}. {cause}Nothing was replaced: try again "
            "later or pass base_url of another mirror."
        )


@contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """Give a fresh file in the folder of `final`; remove it unless it was renamed."""
    partial = final.with_name(f"{final.name}.{os.urandom(6).hex()}.part")
    partial.touch(exist_ok=False)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content_sha256(path: Path) -> str | None:
    """Return the checksum of a file without its gzip layer, None if damaged."""
    digest = hashlib.sha256()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None
    return digest.hexdigest()


def _is_known(path: Path, file_sum: str, content_sum: str | None) -> bool:
    """Whether a file, or what is in it, has the official checksum."""
    return _sha256(path) == file_sum or (
        content_sum is not None and _content_sha256(path) == content_sum
    )


def _state(
    file: str, path: Path | None, file_sum: str, contents: dict[str, str]
) -> str:
    """Say whether one IDX file is official."""
    if path is None:
        return f"{file}: missing"
    if _sha256(path) == file_sum:
        return f"{path.name}: ok, the official file"
    if _content_sha256(path) == contents.get(file):
        return f"{path.name}: ok, the official content, compressed anew"
    return f"{path.name}: differs from the official file"


def _is_official_cifar(path: Path) -> bool:
    """Whether a file is there and as in the official archive."""
    if not path.is_file():
        return False
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False)
    return digest.hexdigest() == cifar.MD5[path.name]


def _cifar_state(path: Path) -> str:
    """Say whether one file of CIFAR-10 is official."""
    if not path.is_file():
        return f"{path.name}: missing"
    if _is_official_cifar(path):
        return f"{path.name}: ok, the official file"
    return f"{path.name}: differs from the official file, e.g. JPEG copies"
