import pytest

from benchmarks.step_cost.report import report_step_cost
from meta_train.log import write_json_lines

ROW = {
    "network": "fashion-cnn",
    "status": "measured",
    "batch": "128 images of 28 x 28",
    "num_parameters": 14_378,
    "placed_share": None,
    "prepare_ms": 1.0,
    "first_ms": 9.0,
    "quartiles_ms": [1.5, 2.5],
    "repetitions": 30,
    "peak_bytes": 2**20,
    "state_floats": 2.0,
    "gflop": 0.5,
    "product_gflop_per_s": 80.0,
    "settings": {"seconds": 10.0, "threads": 1},
    "provenance": {
        "commit": "abc",
        "versions": {"torch": "2"},
        "machine": {"processor": "AMD", "threads": 1},
    },
}


def row(subject, median_ms=2.0, **changes):
    return {**ROW, "subject": subject, "median_ms": median_ms, **changes}


@pytest.fixture
def write(tmp_path):
    """Write rows and return their report."""

    def write(*rows):
        path = tmp_path / "step-cost.jsonl"
        write_json_lines(path, rows)
        text = report_step_cost(path)
        assert path.with_suffix(".md").read_text() == text
        return text

    return write


def cells(text, label):
    """Return the cells of a label's last line in the tables."""
    lines = [line.strip("|").split("|") for line in text.splitlines()]
    rows = [[cell.strip() for cell in line] for line in lines]
    return [row for row in rows if row[0] == label][-1][1:]


def test_a_step_stands_beside_the_gradient_and_adam(write):
    text = write(
        row("forward-backward", 20.0),
        row("adam-fused", 0.5, gflop=0.0),
        row("default", 10.0, placed_share=1.0, state_floats=6.0, gflop=0.4),
        row("default-pyg", 40.0),
    )
    assert cells(text, "NG-GNN") == [
        *("10.00", "1.50 to 2.50", "30", "9.00", "0.5", "20", "0.25", "1.0", "6.00"),
        *("0.400", "40.00", "80.00", "2"),
    ]
    assert cells(text, "torch Adam, fused")[-1] == ""  # it multiplies no matrices
    assert "14,378 parameters, 100.0% of them placed in the neural graph" in text
    assert "128 images of 28 x 28" in text
    assert "where the first took longer than\n10 s" in text
    assert "227 ms" not in text


def test_what_could_not_be_measured_says_so(write):
    failed = {key: ROW[key] for key in ("network", "settings", "provenance")}
    text = write(
        row("forward-backward", 20.0),
        {**failed, "subject": "default-pyg", "status": "out of memory"},
    )
    assert cells(text, "NG-GNN on PyTorch Geometric")[0] == "out of memory"
    assert text.count("out of memory") == 2  # in the overview, too


def test_ratios_are_blank_without_their_denominator(write):
    assert cells(write(row("default")), "NG-GNN")[4:7] == [""] * 3


def test_a_compiled_step_has_the_operations_of_the_eager_one(write):
    text = write(row("default", gflop=0.4), row("default-compiled", 1.0, gflop=None))
    assert cells(text, "NG-GNN, compiled")[9:11] == ["0.400", "400.0"]


def test_a_time_taken_once_has_no_quartiles(write):
    text = write(row("default", repetitions=1, quartiles_ms=None, peak_bytes=None))
    found = cells(text, "NG-GNN")
    assert (found[1], found[7]) == ("", "")


def test_the_papers_rule_is_compared_with_the_released_code(write):
    text = write(row("paper-forward", 50.0, gflop=2.5))
    assert "took 227 ms with one thread, on other hardware" in text
    assert "are no ratio of speeds" in text
    assert "2.50 GFLOP in matrix products at 50.0 GFLOP/s, 62% of what" in text
