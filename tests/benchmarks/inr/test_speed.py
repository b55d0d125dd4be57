import pytest

from benchmarks.inr.speed import InrSpeedConfig
from l2o.cli import main
from meta_train.log import read_json_lines


def test_both_forms_are_timed_and_reported(tmp_path, capsys):
    path = tmp_path / "inr-speed.jsonl"
    few = [
        *("--width", "8", "--batch-size", "2", "--parts", "1", "2"),
        *("--repetitions", "2", "--results", str(path)),
    ]
    assert main(["benchmark", "inr-speed", *few]) == 0
    rows = read_json_lines(path)
    assert [(row["form"], row["part"]) for row in rows] == [
        ("fans", 1),
        ("pyg", 1),
        ("fans", 2),
        ("pyg", 2),
    ]
    assert all(0 < row["lowest"] <= row["networks_per_second"] for row in rows)
    assert "| PyTorch Geometric, edge by edge |" in capsys.readouterr().out
    assert main(["report", "inr-speed", "--results", str(path)]) == 0
    assert f"Written: {tmp_path / 'inr-speed.md'}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings", [{"batch_size": 49}, {"parts": (5,)}, {"repetitions": 0}]
)
def test_settings_must_make_sense(settings):
    with pytest.raises(ValueError, match="Leave them out for the defaults"):
        InrSpeedConfig(**settings)
