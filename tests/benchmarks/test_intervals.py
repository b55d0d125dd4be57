import math
import random

import pytest

from benchmarks import intervals
from benchmarks.intervals import (
    interquartile_means,
    paired_ratio,
    performance_profiles,
    unpaired_ratio,
)


def losses(mean, spread, seed, count=5):
    draw = random.Random(seed)
    return {index: mean * math.exp(draw.gauss(0, spread)) for index in range(count)}


def test_a_clear_difference_is_won_and_lost():
    better, worse = losses(1.0, 0.01, 0), losses(1.2, 0.01, 1)
    found = paired_ratio(better, worse)
    assert found.verdict == "won"
    assert found.low < 1 / 1.2 < found.high < 1
    assert paired_ratio(worse, better).verdict == "lost"
    assert unpaired_ratio(list(better.values()), list(worse.values())).verdict == "won"


def test_noise_alone_is_level_nineteen_times_in_twenty():
    verdicts = [
        paired_ratio(losses(1.0, 0.1, 2 * i), losses(1.0, 0.1, 2 * i + 1)).verdict
        for i in range(400)
    ]
    assert 0.92 < verdicts.count("level") / 400 < 0.98
    verdicts = [
        unpaired_ratio(
            list(losses(1.0, 0.1, 2 * i).values()),
            list(losses(1.0, 0.1, 2 * i + 1).values()),
        ).verdict
        for i in range(400)
    ]
    assert 0.92 < verdicts.count("level") / 400 < 0.985


def test_pairs_see_what_is_hidden_by_hard_seeds():
    """Seeds differ tenfold, optimizers by five per cent for each of them."""
    hard = {seed: 10.0**seed for seed in range(5)}
    better = {seed: (0.95 + 0.001 * seed) * loss for seed, loss in hard.items()}
    assert paired_ratio(better, hard).verdict == "won"
    mixed = unpaired_ratio(list(better.values()), list(hard.values()))
    assert mixed.verdict == "level"


def test_only_common_seeds_are_compared():
    first, second = {1: 1.0, 2: 1.1, 3: 9.0}, {1: 2.0, 2: 2.1, 4: 0.1}
    found = paired_ratio(first, second)
    assert found.num_pairs == 2
    assert found.ratio == pytest.approx(math.sqrt(0.5 * 1.1 / 2.1))


def test_a_run_without_a_loss_is_the_worst():
    finite, diverged = {1: 1.0, 2: 1.0}, {1: 0.1, 2: math.inf}
    assert paired_ratio(finite, diverged).verdict == "won"
    assert paired_ratio(diverged, finite).verdict == "lost"
    assert paired_ratio(diverged, diverged).verdict == "level"


def test_one_seed_is_no_comparison():
    with pytest.raises(ValueError, match="Run more seeds"):
        paired_ratio({1: 1.0, 2: 1.0}, {1: 1.0, 3: 1.0})
    with pytest.raises(ValueError, match="Run more seeds"):
        unpaired_ratio([1.0], [1.0, 2.0])


def test_the_interquartile_mean_leaves_out_the_extremes(monkeypatch):
    monkeypatch.setattr(intervals, "_REPETITIONS", 50)
    scores = [[0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5, 7.0]]  # the fifth run is cut
    level = [[0.4] * 4, [0.4] * 4]
    found = interquartile_means({"a": scores, "b": level})
    mean, low, high = found["a"]
    assert low <= mean == 0.5 <= high
    assert found["b"] == pytest.approx((0.4, 0.4, 0.4))
    assert interquartile_means({"a": scores})["a"] == found["a"]  # same draws


def test_a_profile_is_a_share_of_runs():
    found = performance_profiles({"a": [[0.2, 0.6], [0.6, 1.0]]}, [0.0, 0.5, 0.9])
    assert found["a"] == pytest.approx([1.0, 0.75, 0.25])
