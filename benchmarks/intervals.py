"""Intervals of comparisons: paired by seed, and over tasks by `rliable`."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

Verdict: TypeAlias = Literal["won", "level", "lost"]
"""Of the first of two optimizers; level where the interval holds no difference."""

CONFIDENCE = 0.95
"""Of every interval."""

_REPETITIONS = 2000
"""Bootstrap samples of an interval over tasks."""


class Ratio(NamedTuple):
    """How the losses of two optimizers compare."""

    ratio: float
    """Geometric mean of the first one's losses, in units of the second one's."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    num_pairs: int
    """Seeds that both ran from, or runs of the smaller group."""

    @property
    def verdict(self) -> Verdict:
        """Verdict on the first one; a lower loss wins."""
        if self.high < 1:
            return "won"
        return "lost" if self.low > 1 else "level"


def paired_ratio(first: Mapping[int, float], second: Mapping[int, float]) -> Ratio:
    """Compare losses of the same seeds by Student's interval of their log ratio.

    A run without a finite loss counts as worse than any other one: it makes the ratio
    infinite or zero, without an interval.

    Args:
        first: loss by seed; positive.
        second: the same of the other optimizer; at least two seeds in common.

    Raises:
        ValueError: if they have fewer than two seeds in common.

    Example:
        >>> paired_ratio({1: 0.5, 2: 0.6}, {1: 1.0, 2: 1.2}).verdict
        'won'
    """
    seeds = sorted(first.keys() & second.keys())
    _check(len(seeds), "paired_ratio")
    firsts, seconds = ([each[seed] for seed in seeds] for each in (first, second))
    if (special := _not_finite(firsts, seconds)) is not None:
        return special
    logs = [math.log(a / b) for a, b in zip(firsts, seconds, strict=True)]
    return _interval(
        statistics.fmean(logs),
        statistics.stdev(logs) / math.sqrt(len(logs)),
        len(logs) - 1,
        len(logs),
    )


def unpaired_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Compare losses of different seeds by Welch's interval of their log ratio.

    Args:
        first: losses; positive, at least two.
        second: the same of the other runs.

    Raises:
        ValueError: if either has fewer than two.
    """
    _check(min(len(first), len(second)), "unpaired_ratio")
    if (special := _not_finite(first, second)) is not None:
        return special
    logs = [[math.log(loss) for loss in losses] for losses in (first, second)]
    parts = [statistics.variance(each) / len(each) for each in logs]
    error = math.sqrt(sum(parts))
    denominator = sum(
        part**2 / (len(each) - 1) for part, each in zip(parts, logs, strict=True)
    )
    freedom = error**4 / denominator if denominator else math.inf
    middle = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    return _interval(middle, error, freedom, min(map(len, logs)))


def interquartile_means(
    scores: Mapping[str, Sequence[Sequence[float]]],
) -> dict[str, tuple[float, float, float]]:
    """Return the mean of the middle half of each optimizer's scores, with an interval.

    Args:
        scores: by optimizer, one list per task of one score per run.

    Returns:
        Interquartile mean, lower and upper end by optimizer; the interval is a
        bootstrap that draws runs within each task.

    Raises:
        ModuleNotFoundError: if rliable is not installed.

    Reference: Agarwal et al., 2021, "Deep Reinforcement Learning at the Edge of the
        Statistical Precipice", https://arxiv.org/abs/2108.13264.
    """
    import numpy as np
    from rliable import library, metrics  # extra [benchmarks]

    found = {}
    state = np.random.get_state()  # noqa: NPY002 (rliable draws from it)
    try:
        for name, lists in scores.items():
            np.random.seed(0)  # noqa: NPY002
            points, intervals = library.get_interval_estimates(
                {name: _matrix(lists)},
                lambda each: np.array([metrics.aggregate_iqm(each)]),
                reps=_REPETITIONS,
                confidence_interval_size=CONFIDENCE,
            )
            low, high = intervals[name][:, 0]
            found[name] = (float(points[name][0]), float(low), float(high))
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return found


def performance_profiles(
    scores: Mapping[str, Sequence[Sequence[float]]], thresholds: Sequence[float]
) -> dict[str, list[float]]:
    """Return the share of each optimizer's runs whose score exceeds each threshold.

    Args:
        scores: as for `interquartile_means`.
        thresholds: of the score.

    Raises:
        ModuleNotFoundError: if rliable is not installed.
    """
    import numpy as np
    from rliable import library  # extra [benchmarks]

    found, _ = library.create_performance_profile(
        {name: _matrix(lists) for name, lists in scores.items()},
        np.array(thresholds),
        reps=2,
    )
    return {name: [float(share) for share in each] for name, each in found.items()}


def _matrix(lists: Sequence[Sequence[float]]):  # noqa: ANN202 (numpy is lazy)
    """Return runs x tasks, as rliable takes scores; the shortest task decides."""
    import numpy as np

    num_runs = min(map(len, lists))
    return np.array([each[:num_runs] for each in lists]).T


def _interval(middle: float, error: float, freedom: float, num_pairs: int) -> Ratio:
    from scipy import stats  # extra [benchmarks]

    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    ends = (math.exp(middle - reach), math.exp(middle + reach))
    return Ratio(math.exp(middle), *ends, num_pairs)


def _not_finite(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """Return a note where losses are infinite; None if none is."""
    bad = [sum(map(math.isinf, losses)) for losses in (first, second)]
    if bad == [0, 0]:
        return None
    count = min(len(first), len(second))
    if bad[0] == bad[1]:
        return Ratio(1.0, 0.0, math.inf, count)
    worse = math.inf if bad[0] > bad[1] else 0.0
    return Ratio(worse, worse, worse, count)


def _check(count: int, name: str) -> None:
    if count < 2:
        raise ValueError(
            f"{name} needs two losses of each optimizer; got {count}. Run more seeds."
        )
