"""What baselines on trained networks see, and what they cannot."""

import pytest
import torch

from l2o.companion import stack_networks
from l2o.companion.baselines import (
    BaselineClassifier,
    BaselineEditor,
    DWSNetConfig,
    FunctionalConfig,
    MLPConfig,
    SetNNConfig,
    StatNNConfig,
)

SIZES = {"widths": (5, 4), "num_frequencies": 3, "head_width": 6, "fourier_scale": 0.3}

EQUIVARIANT = {
    "dwsnet": DWSNetConfig(width=4, layers=3),
    "dwsnet-mean": DWSNetConfig(width=4, layers=2, pooling="mean", batch_norm=False),
    "nfn-np": FunctionalConfig(mode="np", **SIZES),
    "nfn-hnp": FunctionalConfig(mode="hnp", **SIZES),
}
INVARIANT = {
    **EQUIVARIANT,
    "set-nn": SetNNConfig(width=5, head_width=6),
    "stat-nn": StatNNConfig(max_layers=4, width=8),
}
BLIND = MLPConfig(width=8, layers=2)


@pytest.fixture
def build():
    """Build a baseline with weights that are seeded, in evaluation."""

    def build(config, chain, kind=BaselineClassifier):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sizes = {"num_classes": 3} if kind is BaselineClassifier else {}
            return kind(config, chain.graph, **sizes).double().eval()

    return build


@pytest.fixture
def answer(build, random_batch, renumber):
    """Return the answers for networks and for the same networks renumbered."""

    def both(config, chain, groups, kind=BaselineClassifier):
        model, params = build(config, chain, kind), random_batch(chain)
        batch = stack_networks(chain.graph, params)
        model.fit_statistics(batch)
        moved = stack_networks(chain.graph, renumber(chain, params, groups))
        return model(batch), model(moved)

    return both


@pytest.fixture
def hidden(chain):
    groups = set(range(1, chain.depth))
    if not groups:
        pytest.skip("it has no hidden neurons")
    return groups


@pytest.mark.parametrize("name", INVARIANT)
def test_hidden_neurons_do_not_change_the_answer(answer, distance, chain, name):
    hidden = set(range(1, chain.depth))
    assert distance(*answer(INVARIANT[name], chain, hidden)) < 1e-9


def test_so_they_do_for_a_perceptron(answer, distance, chain, hidden):
    assert distance(*answer(BLIND, chain, hidden)) > 1e-3


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_edits_follow_the_neurons(answer, distance, renumber, chain, name):
    hidden = set(range(1, chain.depth))
    still, moved = answer(EQUIVARIANT[name], chain, hidden, BaselineEditor)
    assert distance(moved, renumber(chain, still, hidden)) < 1e-9


def test_a_perceptrons_do_not(answer, distance, renumber, chain, hidden):
    still, moved = answer(BLIND, chain, hidden, BaselineEditor)
    assert distance(moved, renumber(chain, still, hidden)) > 1e-3


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_inputs_and_outputs_are_told_apart(answer, distance, chain, name, end):
    groups = {0} if end == "inputs" else {chain.depth}
    assert distance(*answer(EQUIVARIANT[name], chain, groups)) > 1e-6


def test_without_its_encoding_np_confuses_them(answer, distance, chain):
    config = FunctionalConfig(mode="np", num_bands=0, **SIZES)
    assert distance(*answer(config, chain, {0, chain.depth})) < 1e-9


def test_a_set_of_entries_cannot_see_which_neurons_meet(answer, distance, chain):
    groups = set(range(chain.depth + 1))
    for name in ("set-nn", "stat-nn"):
        assert distance(*answer(INVARIANT[name], chain, groups)) < 1e-9


class TestCompany:
    """In evaluation no network's answer depends on the others of its batch."""

    def alone(self, model, batch):
        return torch.cat([model(part) for part in batch.split(1)])

    @pytest.mark.parametrize("name", [*INVARIANT, "mlp"])
    def test_the_answer_is_the_same_alone(
        self, build, random_batch, distance, chain, name
    ):
        model = build({**INVARIANT, "mlp": BLIND}[name], chain)
        batch = stack_networks(chain.graph, random_batch(chain))
        assert distance(self.alone(model, batch), model(batch)) < 1e-9

    def test_batch_norm_couples_them_in_training(
        self, build, random_batch, distance, chain
    ):
        model = build(EQUIVARIANT["dwsnet"], chain).train()
        batch = stack_networks(chain.graph, random_batch(chain))
        two = torch.cat([model(part) for part in batch.split(2)])
        assert distance(two, model(batch)) > 1e-3
