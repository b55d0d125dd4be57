import pytest

from benchmarks.step_cost import Measurement, StepCostConfig, command
from benchmarks.step_cost.command import run as run_step_cost
from benchmarks.step_cost.networks import NETWORKS
from meta_train.log import read_json_lines


@pytest.fixture
def calls(monkeypatch):
    """Put numbers in the place of measurements; return the cells asked for."""
    asked = []

    def run_cell(cell, limit_s):
        asked.append((cell.network, cell.subject))
        return {"status": "out of time", "limit_s": limit_s}

    monkeypatch.setattr(command, "run_cell", run_cell)
    commit(monkeypatch, "abc")
    return asked


def commit(monkeypatch, name):
    monkeypatch.setattr(command, "code_version", lambda: name)


def run(tmp_path, *subjects, **settings):
    config = StepCostConfig(
        models=("mlp-10k",),
        subjects=subjects,
        measure=Measurement(**settings),
        results=tmp_path / "rows.jsonl",
    )
    lines = []
    run_step_cost(config, lines.append)
    return lines, read_json_lines(config.results)


def test_a_run_continues_where_it_stopped(tmp_path, calls):
    run(tmp_path, "adam-fused")
    lines, rows = run(tmp_path, "adam-fused", "default")
    assert calls == [("mlp-10k", "adam-fused"), ("mlp-10k", "default")]
    assert lines == [
        "[1/2] mlp-10k, adam-fused: already there",
        "[2/2] mlp-10k, default: out of time",
    ]
    assert [row["subject"] for row in rows] == ["adam-fused", "default"]
    assert rows[0]["settings"]["repeats"] == 30


@pytest.mark.parametrize("name", ["def", "abc-dirty"])
def test_rows_of_other_files_are_measured_again(tmp_path, calls, monkeypatch, name):
    run(tmp_path, "adam-fused")
    commit(monkeypatch, name)
    _, rows = run(tmp_path, "adam-fused")
    run(tmp_path, "adam-fused")
    assert len(calls) == (2 if name == "def" else 3)
    assert [row["provenance"]["commit"] for row in rows] == [name]


def test_the_code_has_a_version():
    name, _, mark = command.code_version().partition("-")
    assert (name.isalnum() and mark in ("", "dirty")) or name.startswith("unknown")


def test_rows_of_other_settings_are_measured_again(tmp_path, calls):
    run(tmp_path, "adam-fused")
    _, rows = run(tmp_path, "adam-fused", repeats=2)
    assert len(calls) == 2
    assert len(rows) == 1


def test_rows_of_another_benchmark_are_copied(tmp_path, calls):
    _, rows = run(tmp_path, "adam-fused")
    lines, known, pair = [], [tmp_path / "rows.jsonl"], ("mlp-10k", "adam-fused")
    assert command.known_pairs(Measurement(), known) == {pair}
    assert command.known_pairs(Measurement(repeats=2), known) == set()
    other = tmp_path / "other" / "rows.jsonl"
    assert rows == command.measure_pairs(
        [pair], Measurement(), other, lines.append, known
    )
    assert lines == ["[1/1] mlp-10k, adam-fused: copied"]
    assert read_json_lines(other) == rows
    assert len(calls) == 1


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_its_subjects(network):
    found = command.suitable(network)
    assert {"forward-backward", "adam-fused", "default"} <= set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"threads": -1}, {"seconds": 0.0}])
def test_settings_must_be_positive(wrong):
    with pytest.raises(ValueError, match="Leave them out for the defaults"):
        Measurement(**wrong)
