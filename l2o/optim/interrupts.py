"""Ctrl-C during a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let an interrupt from the keyboard wait until the block ends.

    So a step is taken as a whole. A second interrupt does not wait. Threads other than
    the main one, which Python never interrupts, pass through.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(
        handler
    ):
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []

    def wait(number: int, frame: FrameType | None) -> Any:
        if waiting:
            waiting.clear()
            return handler(number, frame)
        waiting.append((number, frame))
        return None

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for number, frame in waiting:
            handler(number, frame)
