import pytest

from benchmarks.pictures import Panel, band, save_curves, smooth


def test_smoothing_averages_five_points():
    assert smooth([0.0, 1.0, 2.0, 3.0, 9.0]) == [1.0, 1.5, 3.0, 3.75, 14 / 3]


def test_a_curve_ends_where_it_is_no_longer_finite():
    assert len(smooth([1.0, 2.0, None, 3.0])) == 2


def test_the_band_ends_with_the_shortest_curve():
    assert band([[1.0, 2.0], [3.0]]) == [(2.0, 1.0, 3.0)]


@pytest.mark.parametrize(
    "panels",
    [
        [],
        [Panel(title="none", curves={}, every=10)],
        [
            Panel(title="lost", curves={"a": [[None]], "b": [[1.0, 1e9]]}, every=10),
            Panel(title="two", curves={"a": [[2.0, 1.0], [3.0, None]]}, every=10),
        ],
    ],
    ids=["nothing", "empty", "diverged"],
)
def test_any_curves_become_a_picture(tmp_path, panels):
    save_curves(tmp_path / "new" / "curves.png", panels)
    assert (tmp_path / "new" / "curves.png").read_bytes()[:4] == b"\x89PNG"
