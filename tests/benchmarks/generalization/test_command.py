from dataclasses import replace

import pytest

from benchmarks.generalization import predictors
from benchmarks.generalization.command import (
    GeneralizationConfig,
    run_generalization,
)
from benchmarks.generalization.learning import LearningConfig
from benchmarks.generalization.report import report_generalization
from l2o.companion import NGTBackboneConfig
from l2o.nets.transformer import RelationalConfig
from meta_train.log import read_json_lines
from optimizees.zoo.wild_park import EMBEDDED_PARK


@pytest.fixture
def small_transformers(monkeypatch):
    """NG-T of a tenth of its width: these tests are about rows."""
    layer = RelationalConfig(
        node_width=8,
        edge_width=4,
        attention_width=8,
        node_hidden=8,
        edge_hidden=8,
        heads=2,
    )
    backbone = NGTBackboneConfig(layers=1, layer=layer)
    whole = predictors.park_predictor
    monkeypatch.setattr(
        predictors,
        "park_predictor",
        lambda kind: replace(whole(kind), backbone=backbone),
    )


@pytest.fixture
def config(tmp_path, small_transformers):
    return GeneralizationConfig(
        directory=EMBEDDED_PARK,
        predictors=("stat-nn", "ng-t", "ng-t-no-activations"),
        seeds=(0, 1),
        learning=LearningConfig(epochs=1, batch_size=8),
        work=tmp_path / "work",
        results=tmp_path / "generalization.jsonl",
    )


@pytest.mark.slow
def test_a_row_a_run_and_a_report(config):
    said = []
    rows = run_generalization(config, said.append)
    assert read_json_lines(config.results) == rows
    assert [(row["predictor"], row["seed"]) for row in rows[:3]] == [
        ("stat-nn", 0),
        ("ng-t", 0),
        ("ng-t-no-activations", 0),
    ]
    for row in rows:
        assert row["networks"]["train"]["networks"] == 21
        assert row["provenance"]["commit"]
        assert ("pairs" in row) == (row["seed"] == 0)
        assert row["num_tested"] == 9
    assert not list(config.work.glob("*.pt"))
    text = report_generalization(config.results)
    assert "0.817 ± 0.007" in text
    assert "NG-T without activation embeddings: tau falls by" in text
    assert "21 for training (7 runs)" in text
    assert "16 x 16" in text
    assert config.results.with_suffix(".png").stat().st_size > 10_000
    said.clear()
    assert run_generalization(config, said.append) == rows
    assert all(line.endswith("already there") for line in said)


def test_a_report_needs_rows(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run `l2o benchmark generalization`"):
        report_generalization(tmp_path / "none.jsonl")
