import pytest

from benchmarks import optimizer_cost
from benchmarks.optimizer_cost import (
    OptimizerCostConfig,
    live,
    report,
    run,
)
from meta_train.log import read_json_lines


@pytest.mark.parametrize(
    ("dtype", "optimizer", "floats", "num_bytes"),
    [
        ("float32", "Adam", 2, 8),
        ("float32", "ff", 6, 24),
        ("bfloat16", "Adam", 2, 4),
        ("bfloat16", "ff", 6, 24),
    ],
)
def test_state_is_counted(dtype, optimizer, floats, num_bytes):
    life = live("FashionMNIST CNN", dtype, optimizer)
    assert life.num_parameters > 1000
    assert life.state_floats == floats
    assert life.state_bytes == pytest.approx(num_bytes, abs=0.1)
    assert list(life.seconds) == ["construction", "first step", "second step"]
    assert all(time > 0 for time in life.seconds.values())


def test_rows_and_table(tmp_path, monkeypatch):
    name = "FashionMNIST CNN"
    monkeypatch.setattr(
        optimizer_cost, "NETWORKS", {name: optimizer_cost.NETWORKS[name]}
    )
    path = tmp_path / "optimizer-cost.jsonl"
    lines = []
    config = OptimizerCostConfig(rules=("ff",), repetitions=2, results=path)
    run(config, lines.append)
    rows = read_json_lines(path)
    found = [(row["dtype"], row["optimizer"], row["state_floats"]) for row in rows]
    assert found == [
        ("float32", "Adam", 2.0),
        ("float32", "ff", 6.0),
        ("bfloat16", "Adam", 2.0),
        ("bfloat16", "ff", 6.0),
    ]
    assert all(row["first step ms"] > 0 for row in rows)
    text = path.with_suffix(".md").read_text()
    assert text == lines[-1] == report(path)
    assert "| bfloat16 | ff " in text


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Leave it out for the default"):
        OptimizerCostConfig(repetitions=1)
    with pytest.raises(FileNotFoundError, match="optimizer-cost` first"):
        report(tmp_path / "none.jsonl")
