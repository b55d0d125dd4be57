"""Fuzzing: many damaged variants of one whole file, each read under watch."""

import contextlib
import json
import math
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SECONDS = 5.0
"""Longest that one file may take."""
MOST_BYTES = 500 * 2**20
"""How much the process may grow at most over all files of a target."""

LEAVES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**31, 2**63, 10**18, 10**300, "", "x", "\x1b[31m\n"),
    *(math.nan, math.inf, -math.inf, [], {}, [[]], {"kind": "x"}, [0] * 50, "../x"),
)
"""Values that take the place of others."""
WORDS = (
    *(b"null", b"NaN", b"-1", b"1e999", b"99999999999999999999", b'"', b"{", b"}"),
    *(b"[" * 5000, b"&a [*a, *a]", b"!!python/object:os.system", b"\x00", b"\xff\xfe"),
    *(b"<html>", b"\n", b"<<<<<<< HEAD\n", b"\r", b"\xed\xa0\x80", b"PK\x03\x04"),
)
"""Bytes that are put into files."""


class HangError(BaseException):
    """A reader took too long; no `except Exception` can hide it."""


@dataclass(frozen=True)
class Target:
    """What reads a kind of file, and what it may raise."""

    name: str
    """For messages and test ids."""
    whole: bytes
    """A file that is read without an error."""
    read: Callable[[Path], object]
    """Reads it."""
    allowed: tuple[type[Exception], ...] = (ValueError,)
    """The documented errors for a damaged file."""
    suffix: str = ""
    """End of the file's name."""
    mutate: Callable[[random.Random, bytes], bytes] | None = None
    """Makes a variant; None damages bytes."""


def damage_bytes(draw: random.Random, whole: bytes) -> bytes:
    """Return the bytes with one to four random faults."""
    content = bytearray(whole)
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(content) + 1)
        stop = min(len(content), start + draw.choice((1, 2, 8, 64, 4096)))
        match draw.randrange(7):
            case 0 if content:
                content[start % len(content)] ^= 1 << draw.randrange(8)
            case 1:
                del content[start:stop]
            case 2:
                del content[start:]
            case 3:
                content[start:start] = draw.choice(WORDS)
            case 4:
                content[start:stop] = draw.choice(WORDS)
            case 5:
                content[start:stop] = bytes(stop - start)
            case _:
                content[start:start] = content[start:stop]
    return bytes(content)


def damage_values(draw: random.Random, values: Any) -> Any:
    """Return nested values with one to three random faults."""
    values = deepcopy(values)
    for _ in range(draw.randint(1, 3)):
        places = list(_places(values))
        if not places:
            return values
        owner, key = draw.choice(places)
        match draw.randrange(4):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, dict):
                owner[draw.choice(("kind", "more", "", "width"))] = owner[key]
            case _:
                owner[key] = deepcopy(draw.choice(LEAVES))
    return values


def fuzz(target: Target, folder: Path, *, seconds: float, fewest: int = 20) -> int:
    """Read damaged variants until the time is up.

    Variant `i` depends on the target and `i` alone.

    Args:
        target: what is read.
        folder: where the variants are written.
        seconds: how long.
        fewest: variants at least.

    Returns:
        How many variants there were.

    Raises:
        AssertionError: if one raised something undocumented, took over 5 s, or the
            process grew by over 500 MB; the message names the variant.
    """
    path = folder / f"file{target.suffix}"
    path.write_bytes(target.whole)
    target.read(path)
    before = _peak_bytes()
    started = time.perf_counter()
    number = 0
    while number < fewest or time.perf_counter() - started < seconds:
        mutate = target.mutate or damage_bytes
        path.write_bytes(mutate(random.Random(f"{target.name} {number}"), target.whole))
        read_under_watch(target, path, number)
        growth = _peak_bytes() - before
        assert growth < MOST_BYTES, f"{target.name} {number} took {growth:,} bytes"
        number += 1
    return number


def read_under_watch(
    target: Target, path: Path, number: int, most_seconds: float = MOST_SECONDS
) -> None:
    """Read one file; fail on what is not documented."""
    named = f"{target.name} {number}"
    try:
        with _alarm(most_seconds):
            target.read(path)
    except target.allowed as error:
        if not str(error).strip():
            raise AssertionError(f"{named}: {error!r} says nothing") from error
    except HangError:
        raise AssertionError(f"{named} took over {most_seconds} s") from None
    except BaseException as error:
        raise AssertionError(f"{named} raised {error!r}") from error


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every owner and key of nested dictionaries and lists."""
    items = (
        list(values.items())
        if isinstance(values, dict)
        else list(enumerate(values))
        if isinstance(values, list)
        else []
    )
    for key, value in items:
        yield values, key
        yield from _places(value)


def damage_json(draw: random.Random, whole: bytes) -> bytes:
    """Return a JSON text with other values."""
    return json.dumps(damage_values(draw, json.loads(whole))).encode()
