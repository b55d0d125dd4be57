import pytest
import torch

from benchmarks.launches import Launches
from benchmarks.recipe_cost import RecipeCostConfig, report, run
from meta_train.log import read_json_lines


@pytest.mark.slow
def test_a_recipe_is_timed_and_scaled_to_its_budget(tmp_path):
    path = tmp_path / "some" / "rows.jsonl"
    config = RecipeCostConfig(
        recipes=("ff",), inner_steps=1, repetitions=1, threads=None, results=path
    )
    run(config, [].append)
    (row,) = read_json_lines(path)
    assert row["inner_steps"] == 100_000
    (inner,) = row["seconds_per_inner_step"]
    assert row["seconds_per_outer_step"] == pytest.approx(100 * inner, rel=0.01)
    assert row["hours"] == pytest.approx(100_000 * inner / 3600, abs=0.01)
    launches = row["launches"] + row["launches_with_autograd"]
    assert row["expected_gpu_hours"] == pytest.approx(launches / 3600, abs=0.01)
    assert f"{row['launches']:,}" in report(path)


@pytest.mark.parametrize(
    "wrong", [{"recipes": ("adam",)}, {"inner_steps": 0}, {"repetitions": 0}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="Leave them out for the defaults"):
        RecipeCostConfig(**wrong)


def test_views_launch_nothing():
    item = torch.ones(2, 3)
    with Launches() as counted:
        _ = item.t().reshape(6)[:2].unsqueeze(0)
    assert counted.names.total() <= 1  # reshape copies what is transposed
    with Launches() as counted:
        torch._foreach_add([item, item], 1.0)
    assert dict(counted.names) == {"_foreach_add": 1}
