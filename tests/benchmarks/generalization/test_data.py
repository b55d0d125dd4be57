import shutil

import numpy as np
import pytest
import torch

from benchmarks.generalization.data import batches, load_population
from optimizees.zoo.wild_park import EMBEDDED_PARK


def everything(batch):
    """Networks of a batch as (graph, one number that tells it), in order."""
    found = {}
    for stack in batch.stacks:
        weights = stack.params["convs.0.weight"]
        for place, value in zip(stack.positions.tolist(), weights, strict=True):
            found[place] = (id(stack.graph), round(float(value.sum()), 4))
    return [found[place] for place in range(len(found))]


def pairs_of(groups):
    """Which accuracy belongs to which network."""
    return {
        (id(group.graph), round(float(values.sum()), 4)): float(accuracy)
        for group in groups
        for values, accuracy in zip(
            group.params["convs.0.weight"], group.accuracies, strict=True
        )
    }


class TestPopulations:
    def test_a_park_has_a_group_a_run(self, park):
        assert [len(park.train), len(park.validation), len(park.test)] == [7, 2, 3]
        assert park.facts["test"]["runs"] == 3
        assert park.facts["test"]["networks"] == 9
        assert park.facts["made"]["config"]["batch_size"] == 64

    def test_runs_do_not_cross_splits(self, park):
        """No checkpoint is in two splits, and equal graphs are one object."""
        pairs = [pairs_of(groups).keys() for groups in (park.train, park.test)]
        assert not pairs[0] & pairs[1]

    def test_a_zoo_has_one_architecture(self, zoo):
        assert [
            sum(map(len, part)) for part in (zoo.train, zoo.validation, zoo.test)
        ] == [
            12,
            3,
            15,
        ]
        assert zoo.train[0].graph is zoo.test[0].graph
        assert zoo.train[0].graph.num_parameters == 4970

    def test_fewer_checkpoints_of_training_runs_only(self, park):
        thin = load_population("park", EMBEDDED_PARK, checkpoints_per_run=1)
        assert [len(group) for group in thin.train] == [1] * 7
        assert [len(group) for group in thin.test] == [3] * 3
        for whole, last in zip(park.train, thin.train, strict=True):
            assert last.accuracies[0] == whole.accuracies[-1]

    def test_networks_that_diverged_are_left_out_and_counted(
        self, zoo, zoo_directory, tmp_path
    ):
        shutil.copytree(zoo_directory, tmp_path, dirs_exist_ok=True)
        rows = np.load(tmp_path / "weights.npy")
        rows[:, 7] = np.where(rows[:, 7] == rows[-1, 7], np.nan, rows[:, 7])
        np.save(tmp_path / "weights.npy", rows)
        found = load_population("zoo", tmp_path)
        splits = ("train", "validation", "test")
        assert [zoo.facts[split]["diverged"] for split in splits] == [0, 0, 0]
        assert sum(found.facts[split]["diverged"] for split in splits) == 1
        assert sum(found.facts[split]["networks"] for split in splits) == 29
        kept = [*found.train, *found.validation, *found.test]
        assert all(
            value.isfinite().all() for one in kept for value in one.params.values()
        )

    def test_a_split_without_networks(self, tmp_path):
        (tmp_path / "park.json").write_text("{}")
        with pytest.raises(ValueError, match="Let `l2o data wild-park` finish"):
            load_population("park", tmp_path)


class TestBatches:
    @pytest.mark.parametrize("seed", [None, 0])
    @pytest.mark.parametrize("piece", [1, 2])
    def test_every_network_once_with_its_accuracy(self, park, seed, piece):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        expected, found = pairs_of(park.train), {}
        for batch, accuracies in batches(park.train, 5, generator, piece=piece):
            assert len(batch) == len(accuracies) <= 6
            found |= dict(zip(everything(batch), accuracies.tolist(), strict=True))
        assert found == expected

    def test_the_generator_decides_the_order(self, park):
        def order(seed):
            generator = torch.Generator().manual_seed(seed)
            found = batches(park.train, 5, generator)
            return torch.cat([accuracies for _, accuracies in found])

        assert torch.equal(order(0), order(0))
        assert not torch.equal(order(0), order(1))
