"""The search for rates: it finds what is better, resumes exactly, refuses nonsense."""

import json

import pytest
import torch

from l2o.rule.checkpoint import load_rule
from l2o.rule.neuron_config import NeuronRuleConfig
from meta_train.lanes import Lanes
from meta_train.search import Drawn, RateSearch, life_losses
from meta_train.search_config import SearchConfig, load_search
from meta_train.task_config import FactoryConfig
from meta_train.unroll import ProblemStart

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


def lives(tmp_path, *, is_averaged=False, **changes):
    search = RateSearch(config(), tmp_path)
    bound = search.builder.bound(TASK)
    task = search.builder.task(TASK)
    rates = torch.tensor([0.5, -1.0, -30.0])
    theta = {"base_rates.log_rates": rates[:, None].expand(3, 7).clone()}
    start = ProblemStart(task, bound, seed=0, length=30, is_averaged=is_averaged)
    lanes = Lanes(start, num_lanes=3, **changes)
    return life_losses(lanes, theta, (1, 30), batches=2)


def test_the_average_is_measured_where_there_is_one(tmp_path):
    latest = lives(tmp_path / "latest")
    average = lives(tmp_path / "average", is_averaged=True)
    assert latest.shape == average.shape == (2, 3)
    # After one step, the average is the weights.
    torch.testing.assert_close(latest[0], average[0])
    assert not torch.allclose(latest[1, :2], average[1, :2])
    torch.testing.assert_close(latest[1, 2], average[1, 2])  # it did not move


def test_candidates_in_one_vmap_fare_as_in_turns(tmp_path):
    turns = lives(tmp_path / "turns")
    stacked = lives(tmp_path / "stacked", stacked=True)
    torch.testing.assert_close(turns, stacked, rtol=1e-3, atol=1e-4)


def test_a_lane_that_diverges_counts_the_bound_and_harms_no_other(tmp_path):
    search = RateSearch(config(), tmp_path)
    drawn = Drawn(task=0, member=0, seed=1, horizon=None, is_averaged=False)
    found = search._lives([[0.0] * 7, [9.0] * 7], drawn)
    assert found[0] < 1
    assert found[1] == 10.0


def test_one_row_of_a_weight_is_searched_alone(tmp_path):
    changes = {
        "rule": NeuronRuleConfig(),
        "start": {},
        "searched": ("net.matrix_out.last.weight[0]",),
        "generations": 1,
    }
    search = RateSearch(config(**changes), tmp_path)
    search.run()
    weight = search.weights["net.matrix_out.last.weight"]
    assert weight[0].abs().min() > 0
    assert weight[1:].abs().max() == 0


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_recurrent_networks_are_stacked_too(tmp_path):
    task = FactoryConfig(
        kind="factory", factory="optimizees.small_problems:grammar_sequences"
    )
    search = RateSearch(config(tasks=(task,), steps=(2,)), tmp_path)
    drawn = Drawn(task=0, member=0, seed=1, horizon=None, is_averaged=True)
    found = search._lives([[0.0] * 7, [-9.0] * 7], drawn)
    assert found.isfinite().all()
    assert found[0] != found[1]


def test_aims_are_drawn_by_their_shares(tmp_path):
    changes = {"problems": 300, "average_share": 0.5, "horizon_share": 0.2}
    drawn = RateSearch(config(**changes), tmp_path)._draw()
    averaged = sum(item.is_averaged for item in drawn) / 300
    known = sum(item.horizon is not None for item in drawn) / 300
    assert abs(averaged - 0.5) < 0.1
    assert abs(known - 0.2) < 0.1
    assert not any(item.is_averaged and item.horizon for item in drawn)


def test_weights_that_the_rule_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="weights of the rule"):
        RateSearch(config(start={"base_rates.log_rate": [0.0]}), tmp_path)
    with pytest.raises(ValueError, match="searched must name weights"):
        RateSearch(config(searched=("net.*",)), tmp_path / "other")


@pytest.mark.parametrize(
    "changes",
    [
        {"population": 0},
        {"steps": ()},
        {"steps": (9, 3)},
        {"average_share": 2.0},
        {"average_share": 0.7, "horizon_share": 0.4},
    ],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="SearchConfig"):
        config(**changes)


def test_the_shipped_search_is_read():
    from pathlib import Path

    import meta_train

    path = Path(meta_train.__file__).parent / "configs/search/base-rates.yaml"
    assert load_search(path).name == "base-rates"
