import pytest

from benchmarks.tuning import tune


def search(grid, best, extensions=3):
    """Tune a parabola in the logarithm; return the choice and what was measured."""
    asked = []

    def measure(lr):
        asked.append(lr)
        return [{"scores": [{"accuracy": 1 / (1 + abs(lr - best))}]}]

    return tune(grid, measure, extensions=extensions), asked


def test_a_best_rate_between_others_is_taken():
    assert search((1.0, 2.0, 4.0), best=2.0) == (2.0, [1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("best", "chosen", "added"), [(8.0, 8.0, [8.0, 16.0]), (0.5, 0.5, [0.5, 0.25])]
)
def test_a_grid_grows_until_the_best_rate_has_neighbours(best, chosen, added):
    assert search((1.0, 2.0, 4.0), best) == (chosen, [1.0, 2.0, 4.0, *added])


def test_a_grid_grows_only_so_often():
    chosen, asked = search((1.0, 2.0), best=1e9, extensions=2)
    assert (chosen, asked) == (8.0, [1.0, 2.0, 4.0, 8.0])


@pytest.mark.parametrize("grid", [(1.0,), (2.0, 1.0), (1.0, 1.0)])
def test_a_grid_must_rise(grid):
    with pytest.raises(ValueError, match="leave out repetitions"):
        search(grid, best=1.0)
