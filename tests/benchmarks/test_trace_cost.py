import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import trace_cost
from benchmarks.trace_cost import (
    MODELS,
    TraceCostConfig,
    measure,
    report,
    run,
)


@pytest.fixture
def small(monkeypatch):
    """One network that takes no time."""
    models = {"ResNet-18": lambda: (nn.Linear(3, 2), torch.randn(2, 3))}
    monkeypatch.setattr(trace_cost, "MODELS", models)


def test_a_network_is_measured(small):
    row = measure("ResNet-18")
    assert (row["num_parameters"], row["groups"], row["blocks"]) == (8, 2, 1)
    assert row["placed"] == 1
    assert row["trace_cpu_s"] > 0


def test_rows_become_a_table(small, monkeypatch, tmp_path):
    def here(network, config):
        return measure(network, threads=config.threads)

    monkeypatch.setattr(trace_cost, "_in_a_process", here)
    config = TraceCostConfig(
        networks=("ResNet-18",), repetitions=2, results=tmp_path / "cost.jsonl"
    )
    said = []
    run(config, said.append)
    assert said[0] == "ResNet-18: 2 processes"
    assert "| ResNet-18 |" in said[1]
    assert config.results.with_suffix(".md").read_text() == said[1]


def test_a_report_needs_rows():
    with pytest.raises(FileNotFoundError, match="Run `l2o benchmark trace-cost`"):
        report(Path("nowhere.jsonl"))


@pytest.mark.parametrize("change", [{"networks": ("VGG",)}, {"repetitions": 0}])
def test_what_cannot_be_measured(change):
    with pytest.raises(
        ValueError, match=r"Check the spelling|Leave it out for the default"
    ):
        dataclasses.replace(TraceCostConfig(), **change)


def test_a_process_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(trace_cost.sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="Run `measure` yourself"):
        run(TraceCostConfig(repetitions=1), lambda line: None)


@pytest.mark.slow
@pytest.mark.parametrize("network", MODELS)
def test_full_size_is_placed_within_its_means(network):
    row = measure(network)
    assert row["placed"] == 1
    assert row["memory_ratio"] < 4
