import pytest

from benchmarks import scaling
from benchmarks.scaling import (
    FAMILIES,
    Fit,
    ScalingConfig,
    fit,
    nominal_size,
    report,
    run,
)
from meta_train.log import write_json_lines

ORIGIN = {
    "settings": {"seconds": 10.0},
    "provenance": {
        "commit": "abc",
        "versions": {"torch": "2"},
        "machine": {"processor": "AMD", "threads": 1},
    },
}


def row(network, size, cost, subject="default"):
    return {
        "network": network,
        "subject": subject,
        "status": "measured",
        "num_parameters": size,
        "median_ms": cost,
        "peak_bytes": 8 * size,
        **ORIGIN,
    }


def test_a_power_law_is_found_again():
    law = Fit(slope=1.5, scale=0.25)
    found = fit([(size, law.at(size)) for size in (10, 1000, 50_000)])
    assert found.slope == pytest.approx(1.5)
    assert found.at(123.0) == pytest.approx(law.at(123.0))


def test_one_size_has_no_slope():
    assert fit([]) is None
    assert fit([(10, 1.0), (10, 2.0)]) is None


def test_families_grow():
    for networks in FAMILIES.values():
        sizes = list(map(nominal_size, networks))
        assert sizes == sorted(sizes)
        assert sizes[0] == 1e4
        assert sizes[-1] >= 1e8


@pytest.fixture
def asked(monkeypatch):
    """Measure nothing; return the pairs asked for."""
    asked = []
    monkeypatch.setattr(
        scaling, "measure_pairs", lambda pairs, *others: asked.extend(pairs)
    )
    return asked


def test_networks_beyond_the_largest_are_left_out(asked, tmp_path):
    config = ScalingConfig(
        families=("gpt",),
        subjects=("default",),
        largest=2e5,
        results=tmp_path / "rows.jsonl",
    )
    run(config, print)
    assert asked == [("gpt-10k", "default"), ("gpt-100k", "default")]


def test_larger_networks_are_taken_from_step_cost(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(
        scaling, "known_pairs", lambda measurement, known: {("gpt-2", "default")}
    )
    config = ScalingConfig(families=("gpt",), largest=1.0, results=tmp_path / "rows")
    run(config, print)
    assert asked == [("gpt-2", "default")]


def test_slopes_are_fitted_where_fixed_costs_do_not_rule(tmp_path):
    path = tmp_path / "scaling.jsonl"
    rows = [
        row("mlp-10k", 10_000, 50.0),
        row("mlp-100k", 100_000, 100.0),
        row("mlp-1m", 1_000_000, 1000.0),
        {
            "network": "mlp-1m",
            "subject": "default-pyg",
            "status": "out of memory",
            **ORIGIN,
        },
    ]
    write_json_lines(path, rows)
    text = report(path)
    line = next(line for line in text.splitlines() if line.startswith("| NG-GNN  "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["NG-GNN", "50", "100", "1,000", "1.00", "1e+03", "8"]
    assert "out of memory" in text
    assert "## Transformers" not in text
    assert path.with_suffix(".md").read_text() == text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_report_without_rows_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run `l2o benchmark scaling` first"):
        report(tmp_path / "rows.jsonl")
