import pytest
import torch

from benchmarks.step_cost.networks import NETWORKS, build_network

CPU = torch.device("cpu")
SMALL = [name for name in NETWORKS if name.endswith(("k", "cnn"))]


@pytest.mark.parametrize("name", SMALL)
def test_a_network_and_its_batch_are_the_same_every_time(name):
    first, second = build_network(name, CPU), build_network(name, CPU)
    assert first.loss().isfinite()
    torch.testing.assert_close(first.loss(), second.loss())


@pytest.mark.parametrize(
    ("name", "size"),
    [("mlp-10k", 1e4), ("mlp-100k", 1e5), ("gpt-10k", 1e4), ("gpt-100k", 1e5)],
)
def test_a_network_of_a_family_has_about_the_size_of_its_name(name, size):
    assert build_network(name, CPU).num_parameters == pytest.approx(size, rel=0.25)


def test_building_one_leaves_random_numbers_alone():
    state = torch.get_rng_state()
    build_network("mlp-10k", CPU)
    assert torch.equal(torch.get_rng_state(), state)
