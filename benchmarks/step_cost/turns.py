"""Time subjects in turns, so that other load on the machine affects all alike."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something that is timed."""

    name: str
    """Stands in the table."""
    call: Callable[[], object]
    """Does it once."""
    gflop: float | None = None
    """Floating-point operations in matrix products, in 1e9; None if not counted."""


def time_in_turns(
    subjects: list[Subject],
    repetitions: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the times of each subject in seconds, taken in turns.

    Args:
        subjects: what is timed.
        repetitions: how often.
        clock: `time.process_time` leaves out the time in which other programs ran.
    """
    seconds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    order = random.Random(0)
    for _ in range(repetitions):
        for subject in order.sample(subjects, len(subjects)):
            start = clock()
            subject.call()
            seconds[subject.name].append(clock() - start)
    return seconds
