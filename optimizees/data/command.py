"""The verbs `l2o data locate`, `download` and `verify`."""

import sys
from pathlib import Path

from optimizees.data.download import Progress
from optimizees.data.download import download as fetch
from optimizees.data.download import verify as check
from optimizees.data.layouts import DatasetName, require


def locate(name: DatasetName, /) -> None:
    """Say where a data set lies on this machine.

    Args:
        name: the data set.
    """
    print(require(name, None))


def download(
    name: DatasetName, /, *, dest: Path | None = None, base_url: str | None = None
) -> None:
    """Fetch a data set from its official address and check its checksums.

    Args:
        name: the data set.
        dest: the directory to fill; by default the cache that the loaders look in.
        base_url: a mirror; the checksums stay.
    """
    print(fetch(name, dest, base_url=base_url, progress=_show_progress()))


def verify(name: DatasetName, /, *, root: Path | None = None) -> None:
    """Say for each file of a data set whether it is the official one.

    The exit status is 1 if one is not.

    Args:
        name: the data set.
        root: the directory to look in; by default where `locate` finds it.
    """
    directory = require(name, None) if root is None else root
    print(f"in {directory}")
    found = check(name, directory)
    print("\n".join(found))
    wrong = sum(": ok" not in sentence for sentence in found)
    if wrong:
        raise ValueError(
            f"data verify needs the official files; got {wrong} of {len(found)} that "
            f"are missing or differ. Run `l2o data download {name}`."
        )


def _show_progress() -> Progress | None:
    """Return a function that draws a bar for each file if stderr is a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(file: str, received: int, total: int | None) -> None:
        share = "" if total is None else f" of {total / 1e6:.1f}"
        sys.stderr.write(f"\r{file}: {received / 1e6:.1f}{share} MB")
        if received == total:
            sys.stderr.write("\n")

    return show
