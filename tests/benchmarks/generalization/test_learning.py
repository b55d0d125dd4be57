from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.generalization import learning
from benchmarks.generalization.learning import (
    LearningConfig,
    augmented,
    kendall_tau,
    learn,
)
from benchmarks.generalization.predictors import build_predictor, num_weights, parts_of
from l2o.companion import explained_variance

CONFIG = LearningConfig(epochs=2, batch_size=8)


class TestPredictors:
    @pytest.mark.parametrize(
        ("name", "population", "size"),
        [
            ("ng-gnn", "park", 369_025),
            ("stat-nn", "park", 1_087_001),
            ("ng-gnn", "zoo", 5_587_969),
            ("ng-t", "zoo", 1_807_873),
        ],
    )
    def test_the_published_sizes(self, name, population, size, park, zoo):
        data = (park if population == "park" else zoo).train
        graph = data.networks.stacks[0].graph
        assert num_weights(build_predictor(name, population, graph)) == size

    @pytest.mark.parametrize("name", ["ng-gnn", "ng-t", "stat-nn"])
    def test_parts_give_what_the_whole_gives(self, name, park):
        torch.manual_seed(0)
        model = build_predictor(
            name, "park", park.train.networks.stacks[0].graph
        ).eval()
        cut = parts_of(name)
        parts = park.train.split(cut.part or 30, one_architecture=cut.one_architecture)
        pieces = torch.cat([model.logits(part.networks) for part in parts])
        whole = model.logits(park.train.networks)
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)

    def test_nfn_reads_one_architecture(self, park):
        with pytest.raises(ValueError, match="Leave it out, or choose the zoo"):
            build_predictor("nfn", "park", park.train.networks.stacks[0].graph)

    def test_without_activations_there_is_less_to_learn(self, park):
        graph = park.train.networks.stacks[0].graph
        whole, without = (
            num_weights(build_predictor(name, "park", graph))
            for name in ("ng-t", "ng-t-no-activations")
        )
        assert whole - without == 7 * 32


class TestLearning:
    def test_a_finished_run_is_continued_at_its_end(self, park, tmp_path):
        path = tmp_path / "run.pt"
        whole = learn("stat-nn", park, CONFIG, seed=0, checkpoint=path)
        lines = []
        again = learn(
            "stat-nn", park, CONFIG, seed=0, checkpoint=path, announce=lines.append
        )
        assert again == whole
        assert len(lines) == 1
        assert lines[0].startswith("continues after")

    def test_the_seed_decides_and_the_global_generator_stays(self, park):
        state = torch.get_rng_state()
        first, again, other = (
            learn("stat-nn", park, CONFIG, seed=seed) for seed in (1, 1, 2)
        )
        assert first == again != other
        assert torch.equal(torch.get_rng_state(), state)

    def test_validation_decides_by_tau(self, park, monkeypatch):
        """The weights that are tested are those of the best epoch, not the last."""
        taus = iter([0.1, 0.9, 0.5, 0.2])
        monkeypatch.setattr(learning, "kendall_tau", lambda *_: next(taus))
        config = replace(CONFIG, decay="none")
        found = learn("stat-nn", park, replace(config, epochs=3), seed=0)
        assert (found.best_epoch, found.tau) == (2, 0.2)
        taus = iter([0.1, 0.9, 0.5])
        short = learn("stat-nn", park, config, seed=0)
        assert short.predicted == found.predicted

    @pytest.mark.parametrize(
        ("name", "decay", "falls"),
        [
            ("stat-nn", "cosine", True),
            ("stat-nn", "none", False),
            ("stat-nn-long", "cosine", False),
        ],
    )
    def test_the_rate_falls_over_the_epochs(
        self, name, decay, falls, park, monkeypatch
    ):
        rates = []
        step = torch.optim.AdamW.step

        def watch(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return step(self, *args, **kwargs)

        monkeypatch.setattr(torch.optim.AdamW, "step", watch)
        config = replace(CONFIG, epochs=6, long_epochs=6, decay=decay)
        learn(name, park, config, seed=0)
        assert rates[0] == 1e-3
        assert rates == sorted(rates, reverse=True)
        assert (rates[-1] < 2e-5) == falls
        assert falls or rates[-1] == 1e-3

    def test_the_long_one_stops_when_it_no_longer_improves(self, park, monkeypatch):
        taus = iter([0.5, 0.6, *[0.1] * 50])
        monkeypatch.setattr(learning, "kendall_tau", lambda *_: next(taus))
        config = replace(CONFIG, long_epochs=40, patience=5)
        assert len(learn("stat-nn-long", park, config, seed=0).history) == 7

    @pytest.mark.parametrize("loss", ["bce", "mse"])
    def test_it_learns_what_it_sees(self, park, loss):
        config = replace(CONFIG, epochs=15, augment=False, loss=loss, decay="none")
        same = replace(park, validation=park.train, test=park.train)
        found = learn("stat-nn", same, config, seed=0)
        assert found.tau > 0.5
        assert found.network_passes == 15 * 21
        assert found.history[-1]["loss"] < found.history[0]["loss"]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["nfn", "ng-gnn-small", "ng-t-small"])
    def test_predictors_of_a_zoo(self, name, zoo):
        found = learn(name, zoo, replace(CONFIG, epochs=1), seed=0)
        assert len(found.predicted) == 15

    @pytest.mark.parametrize("name", ["epochs", "long_epochs", "patience"])
    def test_counts_are_positive(self, name):
        counts: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match="Choose a positive value"):
            LearningConfig(**counts)


class TestAugmentation:
    def test_noise_and_lost_weights(self, park):
        stacks = park.train.networks.stacks
        largest = max(stacks, key=lambda stack: stack.graph.num_parameters)
        batch = park.train[largest.positions].networks
        before = batch.params
        found = augmented(batch, torch.Generator().manual_seed(0)).stacks[0].params
        name = max(before, key=lambda key: before[key].numel())
        lost = (found[name] == 0).double().mean()
        assert 0.005 < lost < 0.02
        kept = found[name] != 0
        moved = (found[name] - before[name])[kept].std()
        assert float(moved / before[name].std()) == pytest.approx(0.1, rel=0.1)

    def test_the_networks_stay_as_they_are(self, park):
        batch = park.train.networks[:3]
        copies = {k: v.clone() for k, v in batch.stacks[0].params.items()}
        augmented(batch, torch.Generator().manual_seed(0))
        for name, value in batch.stacks[0].params.items():
            assert torch.equal(value, copies[name])


class TestScores:
    def test_tau_by_hand(self):
        true = torch.tensor([0.1, 0.2, 0.3, 0.4])
        assert kendall_tau(true.square(), true) == pytest.approx(1.0)
        assert kendall_tau(-true, true) == pytest.approx(-1.0)
        swapped = torch.tensor([0.1, 0.2, 0.4, 0.3])
        assert kendall_tau(swapped, true) == pytest.approx((5 - 1) / 6)

    def test_one_answer_for_all_orders_nothing(self):
        assert kendall_tau(torch.ones(3), torch.tensor([0.1, 0.2, 0.3])) == 0.0

    def test_explained_variance_by_hand(self):
        true = torch.tensor([0.0, 1.0, 2.0])
        ones = torch.ones(3)
        assert explained_variance(true, true) == pytest.approx(1.0)
        assert explained_variance(ones, true) == pytest.approx(0.0)
        assert explained_variance(ones + 1, true) == pytest.approx(-1.5)
