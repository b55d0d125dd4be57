"""Ctrl-C as a request: a run stops where its state is whole."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

_NOTICE = b"\nStopping after this outer step; once more to stop at once.\n"
_STDERR = 2


class StopRequest:
    """SIGINT and SIGTERM as a request to stop, while the context lasts.

    The first signal sets `is_made`; a second one raises KeyboardInterrupt where it
    arrives. Signals that the process ignores stay ignored, and outside the main thread,
    which alone may handle signals, nothing changes.
    """

    def __init__(self) -> None:
        self.is_made = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(number)
                # None: a handler that was not installed from Python.
                if previous not in (signal.SIG_IGN, None):
                    self._previous[number] = previous
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_made:
            raise KeyboardInterrupt
        self.is_made = True
        # Not sys.stderr, which the signal may have caught in the middle of a write.
        with suppress(OSError):
            os.write(_STDERR, _NOTICE)
