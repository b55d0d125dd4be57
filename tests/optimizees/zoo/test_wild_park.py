from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from optimizees.zoo import wild_park
from optimizees.zoo.park_files import read_run
from optimizees.zoo.park_training import (
    ParkConfig,
    draw_recipe,
    measure_accuracy,
    train_network,
)
from optimizees.zoo.wild_cnn import WildCNN
from optimizees.zoo.wild_park import (
    EMBEDDED_PARK,
    describe_park,
    generate_park,
    read_park,
)

CONFIG = ParkConfig(epochs=(2, 3), batch_size=16)


@pytest.fixture(scope="module")
def images(make_images):
    return make_images(3)


def generate(directory, images, *, count=3, config=CONFIG, announce=None):
    generate_park(
        directory,
        config,
        images,
        images,
        indices=range(count),
        origin={"commit": "0123456789ab"},
        announce=announce,
    )


def assert_equal(first, second):
    assert first.architecture == second.architecture
    assert torch.equal(first.accuracies, second.accuracies)
    assert first.parameters.keys() == second.parameters.keys()
    for name, values in first.parameters.items():
        assert torch.equal(values, second.parameters[name])


class TestRecipes:
    def test_a_network_is_drawn_independently_of_the_others(self):
        alone = draw_recipe(CONFIG, 5, in_channels=3)
        assert alone == draw_recipe(CONFIG, 5, in_channels=3)
        assert alone.seed != draw_recipe(CONFIG, 6, in_channels=3).seed
        assert alone.seed != draw_recipe(replace(CONFIG, seed=1), 5, in_channels=3).seed

    def test_rates_and_epochs_stay_in_their_ranges(self):
        recipes = [draw_recipe(CONFIG, index, in_channels=3) for index in range(200)]
        rates = torch.tensor([recipe.learning_rate for recipe in recipes])
        assert rates.min() >= 3e-4
        assert rates.max() <= 1e-2
        assert 1e-3 < rates.median() < 3e-3  # log-uniform: the geometric mean
        assert {recipe.epochs for recipe in recipes} == {2, 3}


class TestTraining:
    def test_a_checkpoint_has_the_accuracy_that_stands_beside_it(self, images):
        recipe = draw_recipe(CONFIG, 1, in_channels=3)
        run = train_network(recipe, CONFIG, images, images)
        assert len(run) == recipe.epochs
        model = WildCNN(run.architecture)
        for place in range(len(run)):
            model.load_state_dict({k: v[place] for k, v in run.parameters.items()})
            assert measure_accuracy(model, images) == pytest.approx(
                float(run.accuracies[place])
            )

    def test_it_learns(self, images):
        config = replace(CONFIG, epochs=(60, 60), learning_rate=(1e-2, 1e-2))
        run = train_network(
            draw_recipe(config, 0, in_channels=3), config, images, images
        )
        assert run.accuracies[-1] >= 0.2 > run.accuracies[0]

    def test_the_same_seed_gives_the_same_bytes(self, images):
        recipe = draw_recipe(CONFIG, 2, in_channels=3)
        state = torch.get_rng_state()
        runs = [train_network(recipe, CONFIG, images, images) for _ in range(2)]
        assert_equal(*runs)
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_run_that_diverges_keeps_what_was_finite(self, images):
        config = replace(CONFIG, learning_rate=(1e30, 1e30), epochs=(4, 4))
        recipe = draw_recipe(config, 0, in_channels=3)
        run = train_network(recipe, config, images, images)
        assert len(run) < 4
        assert all(values.isfinite().all() for values in run.parameters.values())

    def test_checkpoints_every_other_epoch(self, images):
        config = replace(CONFIG, epochs=(5, 5), checkpoint_every=2)
        recipe = draw_recipe(config, 0, in_channels=3)
        assert train_network(recipe, config, images, images).epochs.tolist() == [2, 4]


class TestGeneration:
    def test_what_was_stopped_goes_on(self, tmp_path, images):
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        generate(whole, images)
        generate(stopped, images, count=1)
        trained = []
        generate(stopped, images, announce=lambda run: trained.append(run.index))
        assert trained == [1, 2]
        for path in whole.glob("*.safetensors"):
            assert_equal(read_run(path), read_run(stopped / path.name))

    def test_other_settings_are_refused(self, tmp_path, images):
        generate(tmp_path, images, count=1)
        with pytest.raises(ValueError, match=r"for config\. Repeat them"):
            generate(tmp_path, images, config=replace(CONFIG, seed=1))

    @pytest.mark.parametrize("size", [0, 100])
    def test_an_empty_or_truncated_file_is_made_again(self, tmp_path, images, size):
        generate(tmp_path, images, count=1)
        (path,) = tmp_path.glob("*.safetensors")
        before = read_run(path)
        path.write_bytes(path.read_bytes()[:size])
        generate(tmp_path, images, count=1)
        assert_equal(read_run(path), before)

    def test_a_failure_does_not_block_other_settings(
        self, tmp_path, images, monkeypatch
    ):
        def fail(*_, **__):
            raise MemoryError

        monkeypatch.setattr(wild_park, "train_network", fail)
        with pytest.raises(MemoryError):
            generate(tmp_path, images, count=1)
        monkeypatch.undo()
        generate(tmp_path, images, count=1, config=replace(CONFIG, seed=1))

    def test_facts_stand_beside_the_networks(self, tmp_path, images):
        generate(tmp_path, images, count=1)
        (run,) = read_park(tmp_path, "train")
        assert run.facts["commit"] == "0123456789ab"
        assert run.facts["config"]["batch_size"] == 16
        assert describe_park(tmp_path)["train"]["source"] == "made up"


class TestReading:
    def test_splits_go_by_network(self):
        splits = {
            split: {run.index for run in read_park(EMBEDDED_PARK, split)}
            for split in ("train", "validation", "test")
        }
        assert {split: len(runs) for split, runs in splits.items()} == {
            "train": 7,
            "validation": 2,
            "test": 3,
        }
        assert len(set().union(*splits.values())) == 12

    def test_the_embedded_networks_are_whole(self):
        for run in read_park(EMBEDDED_PARK, "test"):
            model = WildCNN(run.architecture)
            model.load_state_dict({k: v[-1] for k, v in run.parameters.items()})
            assert run.accuracies.min() < run.accuracies.max()
        size = sum(path.stat().st_size for path in EMBEDDED_PARK.iterdir())
        assert size < 300_000

    def test_there_must_be_a_park(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="Run `l2o data wild-park`"):
            next(read_park(tmp_path, "train"))

    def test_a_file_of_something_else(self, tmp_path):
        path = tmp_path / "00000.safetensors"
        save_file({"a": torch.zeros(1)}, path)
        with pytest.raises(ValueError, match="Name a file that"):
            read_run(path)

    def test_an_interrupted_write_leaves_nothing(self, tmp_path, images, monkeypatch):
        def fail(*_, **__):
            raise OSError("no room")

        monkeypatch.setattr(wild_park, "write_run", fail)
        with pytest.raises(OSError, match="no room"):
            generate(tmp_path, images)
        assert [path.name for path in tmp_path.iterdir()] == ["park.json"]


class TestSettings:
    @pytest.mark.parametrize(
        "wrong", [{"epochs": (3, 2)}, {"learning_rate": (0.0, 1.0)}]
    )
    def test_ranges(self, wrong):
        with pytest.raises(ValueError, match="Swap or raise them"):
            ParkConfig(**wrong)

    @pytest.mark.parametrize("every", [0, 11])
    def test_checkpoints(self, every):
        with pytest.raises(ValueError, match="Choose 1 for a checkpoint"):
            ParkConfig(checkpoint_every=every)
