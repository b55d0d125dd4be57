import pytest

from benchmarks import meta_speed
from benchmarks.meta_speed import MetaSpeedConfig, report, run
from meta_train.log import read_json_lines


@pytest.fixture
def short(monkeypatch):
    """Time two estimators on one small network."""
    names = ("one_step", "nres, four pairs stacked")
    few = {name: meta_speed.ESTIMATORS[name] for name in names}
    monkeypatch.setattr(meta_speed, "ESTIMATORS", few)
    monkeypatch.setattr(meta_speed, "NETWORKS", {"fashion-mlp": 7})
    monkeypatch.setattr(meta_speed, "_STEPS", 2)


@pytest.mark.usefixtures("short")
def test_every_choice_is_a_row_and_a_cell(tmp_path):
    lines = []
    path = tmp_path / "meta-speed.jsonl"
    config = MetaSpeedConfig(
        rules=("default-ff",), compile=(False,), repetitions=2, results=path
    )
    run(config, lines.append)
    rows = read_json_lines(path)
    assert [row["estimator"] for row in rows] == list(meta_speed.ESTIMATORS)
    for row in rows:
        low, high = row["quartiles"]
        assert 0 < low <= row["steps_per_s"] <= high
        assert row["provenance"]["machine"]["threads"] == 1
    text = report(path)
    assert f"| one_step{' ' * 17}| {rows[0]['steps_per_s']:.0f}" in text
    assert (tmp_path / "meta-speed.md").read_text() == text
    assert lines[-1] == "timing 2 choices on fashion-mlp"


def test_no_rows_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run `l2o benchmark meta-speed` first"):
        report(tmp_path / "none.jsonl")


@pytest.mark.parametrize("changes", [{"rules": ("pony",)}, {"repetitions": 1}], ids=str)
def test_settings_are_checked(changes):
    with pytest.raises(
        ValueError, match=r"Check the spelling|Leave it out for the default"
    ):
        MetaSpeedConfig(**changes)
