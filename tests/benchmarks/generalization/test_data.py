import shutil

import numpy as np
import pytest
import torch

from benchmarks.generalization.data import load_population
from optimizees.zoo.wild_cnn import parameter_shapes
from optimizees.zoo.wild_park import EMBEDDED_PARK, read_park


def pairs_of(data):
    """Which accuracy belongs to which network, by graph and the sum of some weights."""
    return {
        (id(stack.graph), round(float(values.sum()), 4)): float(data.targets[position])
        for stack in data.networks.stacks
        for values, position in zip(
            stack.params["convs.0.weight"], stack.positions, strict=True
        )
    }


class TestPopulations:
    def test_a_park_has_a_stack_per_run(self, park):
        sets = (park.train, park.validation, park.test)
        assert [len(data.networks.stacks) for data in sets] == [7, 2, 3]
        assert park.facts["test"]["runs"] == 3
        assert park.facts["test"]["networks"] == 9
        assert park.facts["made"]["config"]["batch_size"] == 64

    def test_runs_do_not_cross_splits(self, park):
        """No checkpoint is in two splits, and equal graphs are one object."""
        pairs = [pairs_of(data).keys() for data in (park.train, park.test)]
        assert not pairs[0] & pairs[1]

    def test_a_zoo_has_one_architecture(self, zoo):
        sets = (zoo.train, zoo.validation, zoo.test)
        assert [len(data) for data in sets] == [12, 3, 15]
        assert zoo.train.networks.graph is zoo.test.networks.graph
        assert zoo.train.networks.graph.num_parameters == 4970

    def test_fewer_checkpoints_of_training_runs_only(self, park):
        thin = load_population("park", EMBEDDED_PARK, checkpoints_per_run=1)
        assert list(map(len, thin.train.networks.stacks)) == [1] * 7
        assert list(map(len, thin.test.networks.stacks)) == [3] * 3
        stacks = park.train.networks.stacks
        last = torch.stack([stack.positions[-1] for stack in stacks])
        assert torch.equal(thin.train.targets, park.train.targets[last])

    def test_the_published_park_is_split_by_run(self, tmp_path):
        for number, run in enumerate(read_park(EMBEDDED_PARK, "train")):
            folder = tmp_path / f"run_{number}"
            folder.mkdir()
            layers = run.architecture.layers
            config = {
                "activation": [layer.activation for layer in layers],
                "residual": [
                    -1 if layer.skip is None else layer.skip for layer in layers
                ],
            }
            names = parameter_shapes(run.architecture)
            for row, epoch in enumerate(run.epochs.tolist()):
                held = {
                    "model": {n: run.parameters[n][row] for n in names},
                    "config": config,
                    "iteration": epoch,
                    "last_result": {"test/acc": float(run.accuracies[row])},
                }
                torch.save(held, folder / f"{epoch}.pt")
        found = load_population("park", tmp_path)
        assert [found.facts[s]["runs"] for s in ("train", "validation", "test")] == [
            *(4, 1, 2)
        ]
        ours = load_population("park", EMBEDDED_PARK).train
        known = pairs_of(ours)
        sets = (found.train, found.validation, found.test)
        read = {key: value for data in sets for key, value in pairs_of(data).items()}
        assert read == pytest.approx(known)

    def test_an_order_decides_the_splits_of_a_zoo(self, zoo_directory, tmp_path):
        count = len(np.load(zoo_directory / "weights.npy"))
        order = tmp_path / "order.csv"
        order.write_text("".join(f"{row}\n" for row in reversed(range(count))))
        found = load_population("zoo", zoo_directory, order=order)
        usual = load_population("zoo", zoo_directory)
        assert found.facts["order"] == "order.csv"
        assert "order" not in usual.facts
        assert len(found.test) == len(usual.test)
        assert not pairs_of(found.test).keys() & pairs_of(usual.test).keys()
        with pytest.raises(ValueError, match="an order is of a published zoo"):
            load_population("park", EMBEDDED_PARK, order=order)

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
        assert all(
            value.isfinite().all()
            for data in (found.train, found.validation, found.test)
            for value in data.networks.params.values()
        )

    def test_a_split_without_networks(self, tmp_path):
        (tmp_path / "park.json").write_text("{}")
        with pytest.raises(ValueError, match="Let `l2o data wild-park` finish"):
            load_population("park", tmp_path)
