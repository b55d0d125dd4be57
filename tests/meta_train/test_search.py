"""The search for rates: it finds what is better, resumes exactly, refuses nonsense."""

import json
import math

import pytest
import torch

from l2o.rule.checkpoint import load_rule
from meta_train.search import RateSearch, life_losses
from meta_train.search_config import SearchConfig, load_search
from meta_train.task_config import FactoryConfig

TASK = FactoryConfig(
    kind="factory", factory="optimizees.small_problems:noisy_regression"
)


def config(**changes):
    return SearchConfig(
        **{
            "name": "small",
            "start": {"base_rates.log_rates": [-3.0] * 7},
            "searched": ("base_rates.log_rates",),
            "population": 4,
            "generations": 3,
            "problems": 1,
            "steps": (15,),
            "batches": 2,
            "horizon_share": 0.0,
            "sigma": 0.5,
            "tasks": (TASK,),
            **changes,
        }
    )


def centres(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["centre"] for line in lines]


def test_rates_that_are_far_too_small_grow(tmp_path):
    RateSearch(config(generations=6), tmp_path).run()
    start, found = -3.0, centres(tmp_path)[-1]
    hidden = [found[place] for place in (0, 1, 2, 5)]
    assert sum(hidden) / 4 > start + 0.3


def test_a_resumed_search_is_the_uninterrupted_one(tmp_path):
    RateSearch(config(), tmp_path / "whole").run()
    first = RateSearch(config(), tmp_path / "parts")
    first.advance()
    first._lock.release()
    RateSearch(config(), tmp_path / "parts", resume=True).run()
    assert centres(tmp_path / "whole") == centres(tmp_path / "parts")
    rules = [load_rule(tmp_path / n / "last.safetensors") for n in ("whole", "parts")]
    for one, other in zip(*(rule.parameters() for rule in rules), strict=True):
        assert torch.equal(one, other)


def test_other_candidates_come_of_another_seed(tmp_path):
    for seed in (0, 1):
        RateSearch(config(seed=seed, generations=1), tmp_path / str(seed)).run()
    assert centres(tmp_path / "0") != centres(tmp_path / "1")


def test_a_folder_that_is_taken_is_refused(tmp_path):
    search = RateSearch(config(generations=1), tmp_path)
    search.run()
    search._lock.release()
    with pytest.raises(FileExistsError, match="--resume"):
        RateSearch(config(), tmp_path)


def test_a_life_is_measured_at_the_average_and_at_the_end(tmp_path):
    search = RateSearch(config(), tmp_path)
    task = search.builder.task(TASK)
    bound = search.builder.bound(TASK)
    found = life_losses(task, bound, seed=0, moments=(1, 30), batches=2)
    assert len(found) == 2
    latest, average = found[0]
    assert latest == pytest.approx(average)  # after one step the average is the weights
    assert found[1][0] != found[1][1]
    assert all(math.isfinite(loss) for pair in found for loss in pair)


def test_weights_that_the_rule_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="weights of the rule"):
        RateSearch(config(start={"base_rates.log_rate": [0.0]}), tmp_path)


@pytest.mark.parametrize(
    "changes", [{"population": 0}, {"steps": ()}, {"steps": (9, 3)}, {"raw_share": 2.0}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="SearchConfig"):
        config(**changes)


def test_the_shipped_search_is_read():
    from pathlib import Path

    import meta_train

    path = Path(meta_train.__file__).parent / "configs/search/base-rates.yaml"
    assert load_search(path).name == "base-rates"
