"""Progress of a run: a bar in a terminal or lines, and TensorBoard."""

import sys
import time
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

_SECONDS_A_LINE = 60.0
"""Seconds between two lines where stderr is no terminal."""


class ProgressDisplay:
    """Progress and time left: a bar in a terminal, else one line per minute.

    Args:
        name: of the run.
        first: outer steps already made.
        last: outer step at which the run ends.
        is_silent: whether to show nothing.
    """

    def __init__(
        self, name: str, *, first: int, last: int, is_silent: bool = False
    ) -> None:
        self.name = name
        self.first = first
        self.last = last
        self.position = first
        self.is_silent = is_silent
        self.bar: tqdm | None = None
        self.started = self.shown = time.monotonic()

    def __enter__(self) -> Self:
        if not self.is_silent and sys.stderr.isatty():
            self.bar = tqdm(total=self.last, initial=self.first, desc=self.name)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, *, loss: float) -> None:
        """Show one more outer step.

        Args:
            loss: mean over its inner steps, in nats.
        """
        self.position += 1
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self.bar.update()
        elif not self.is_silent and now - self.shown >= _SECONDS_A_LINE:
            self.shown = now
            pace = (now - self.started) / (self.position - self.first)
            left = pace * (self.last - self.position) / 60
            sys.stderr.write(
                f"{self.name}: {self.position} of {self.last} outer steps, loss "
                f"{loss:.3f}, {pace:.1f} s per step, {left:.0f} min left\n"
            )


class TensorBoard:
    """Writes the log for TensorBoard.

    Args:
        folder: where the events go.
        purge_step: drop what an interrupted run wrote from this outer step on.

    Raises:
        ModuleNotFoundError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, purge_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "--tensorboard needs the package tensorboard; got none. Run pip "
                "install tensorboard, or leave the flag out: log.jsonl holds the same."
            ) from error
        self.writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, *, outer_step: int, **values: Any) -> None:
        """Write every number of a record; nested ones have their path as name."""
        for name, value in _flat(values):
            self.writer.add_scalar(name, value, outer_step)
        self.writer.flush()


def _flat(values: dict[str, Any], path: str = "") -> list[tuple[str, float]]:
    """Return the numbers in nested dictionaries with their paths."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{path}{name}/")
        else:
            found.append((f"{path}{name}", float(value)))
    return found
