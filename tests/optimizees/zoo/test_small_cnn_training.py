from dataclasses import replace

import pytest
import torch
from safetensors.torch import save
from torch.nn import functional

from optimizees.zoo import small_cnn_training
from optimizees.zoo.small_cnn_group import ZooConfig, train_group
from optimizees.zoo.small_cnn_training import draw_zoo_recipes, generate_zoo
from optimizees.zoo.small_cnn_zoo import LAYERS, read_small_cnn_zoo

CONFIG = ZooConfig(checkpoints=(0, 2), batch_size=16, at_once=2)


@pytest.fixture(scope="module")
def images(make_images):
    return make_images(1)


def recipes_of(activation, optimizer, count=2, **changes):
    return [
        replace(
            recipe,
            activation=activation,
            optimizer=optimizer,
            dropout=0.0,
            train_fraction=1.0,
            **changes,
        )
        for recipe in draw_zoo_recipes(CONFIG, count)
    ]


def run(params, images, activation):
    """One network as PyTorch's own functions compute it."""
    maps = images.images
    for layer in ("convs.0", "convs.1", "convs.2"):
        weight, bias = params[f"{layer}.weight"], params[f"{layer}.bias"]
        maps = activation(functional.conv2d(maps, weight, bias, stride=2, padding=1))
    return functional.linear(
        maps.mean((2, 3)), params["head.weight"], params["head.bias"]
    )


def generate(directory, images, config=CONFIG, announce=None):
    generate_zoo(
        directory,
        config,
        images,
        images,
        num_networks=8,
        origin={"commit": "0123456789ab"},
        announce=announce,
    )


class TestRecipes:
    def test_fewer_are_the_beginning_of_more(self):
        assert draw_zoo_recipes(CONFIG, 5) == draw_zoo_recipes(CONFIG, 50)[:5]

    def test_they_vary_in_everything(self):
        recipes = draw_zoo_recipes(CONFIG, 300)
        assert {recipe.activation for recipe in recipes} == {"relu", "tanh"}
        assert {recipe.optimizer for recipe in recipes} == {"adam", "rmsprop", "sgd"}
        assert {recipe.train_fraction for recipe in recipes} == {0.1, 0.25, 0.5, 1.0}
        for recipe in recipes:
            factor = 20 if recipe.optimizer == "sgd" else 1
            assert 5e-4 <= recipe.learning_rate / factor <= 5e-2
            assert 0 <= recipe.dropout <= 0.7


class TestTraining:
    @pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
    def test_each_network_is_trained_as_if_alone(self, images, optimizer):
        config = replace(CONFIG, checkpoints=(0, 1))  # rounding grows with the steps
        recipes = recipes_of("tanh", optimizer, 3)
        together = train_group(recipes, config, images, images)
        for place, recipe in enumerate(recipes):
            alone = train_group([recipe], config, images, images)
            torch.testing.assert_close(
                together.weights[:, place], alone.weights[:, 0], rtol=1e-2, atol=1e-3
            )

    @pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam"])
    def test_the_optimizers_are_those_of_torch(self, images, name):
        """One step from the same weights, on all images at once."""
        config = replace(CONFIG, checkpoints=(0, 1, 2, 3), batch_size=len(images))
        (recipe,) = recipes_of("tanh", name, 1, l2reg=1e-3, learning_rate=1e-2)
        group = train_group([recipe], config, images, images)
        params = unpacked(group.weights[0, 0])
        for param in params.values():
            param.requires_grad_()
        build = {
            "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
            "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.9, eps=1e-7),
            "adam": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-7),
        }
        optimizer = build[name](list(params.values()))
        for _ in range(3):
            logits = run(params, images, torch.tanh)
            loss = functional.cross_entropy(logits, images.labels)
            loss = loss + 1e-3 * sum(
                value.square().sum() for value in params.values() if value.ndim > 1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for found, expected in zip(
            unpacked(group.weights[-1, 0]).values(), params.values(), strict=True
        ):
            torch.testing.assert_close(found, expected.detach(), rtol=2e-3, atol=2e-4)

    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    def test_accuracy_and_loss_are_those_of_the_weights(self, images, activation):
        group = train_group(recipes_of(activation, "adam"), CONFIG, images, images)
        function = {"relu": torch.relu, "tanh": torch.tanh}[activation]
        for place in range(2):
            logits = run(unpacked(group.weights[-1, place]), images, function)
            loss = functional.cross_entropy(logits, images.labels)
            hits = (logits.argmax(1) == images.labels).double().mean()
            assert float(group.losses[-1, place]) == pytest.approx(
                float(loss), rel=1e-4
            )
            assert float(group.accuracies[-1, place]) == pytest.approx(float(hits))

    def test_dropout_changes_the_course(self, images):
        recipes = recipes_of("relu", "adam")
        dropped = [replace(recipe, dropout=0.5) for recipe in recipes]
        with_it = train_group(dropped, CONFIG, images, images)
        without = train_group(recipes, CONFIG, images, images)
        assert torch.equal(with_it.weights[0], without.weights[0])
        assert not torch.equal(with_it.weights[1], without.weights[1])


class TestGeneration:
    def test_the_reader_of_the_published_files_reads_it(self, tmp_path, images):
        generate(tmp_path, images)
        found = {
            split: read_small_cnn_zoo(tmp_path, split)
            for split in ("train", "validation", "test")
        }
        assert [len(part) for part in found.values()] == [3, 1, 4]
        networks = found["test"]
        for place, name in enumerate(networks.activations):
            params = {key: value[place] for key, value in networks.parameters.items()}
            logits = run(params, images, {"relu": torch.relu, "tanh": torch.tanh}[name])
            hits = (logits.argmax(1) == images.labels).double().mean()
            assert float(networks.accuracies[place]) == pytest.approx(float(hits))

    def test_what_was_stopped_goes_on(self, tmp_path, images):
        generate(tmp_path, images)
        before = (tmp_path / "weights.npy").read_bytes()
        lost = sorted((tmp_path / "groups").iterdir())[1]
        lost.unlink()
        (tmp_path / "weights.npy").unlink()
        seen = []
        generate(tmp_path, images, announce=lambda done, _: seen.append(done))
        assert len(seen) == 1
        assert (tmp_path / "weights.npy").read_bytes() == before

    def test_other_settings_are_refused(self, tmp_path, images):
        generate(tmp_path, images)
        with pytest.raises(ValueError, match="Repeat them, or choose another"):
            generate(tmp_path, images, config=replace(CONFIG, seed=1))

    def test_colours_are_refused(self, tmp_path, make_images):
        with pytest.raises(ValueError, match="Convert them to grey"):
            generate(tmp_path, make_images(3))


@pytest.mark.parametrize("checkpoints", [(), (2, 1), (1, 1), (-1, 2)])
def test_checkpoints_must_rise(checkpoints):
    with pytest.raises(ValueError, match="Write for example"):
        ZooConfig(checkpoints=checkpoints)


@pytest.mark.parametrize("wrong", [{"l2": (0.0, 1.0)}, {"dropout": (0.5, 0.1)}])
def test_ranges(wrong):
    with pytest.raises(ValueError, match="Swap or raise them"):
        ZooConfig(**wrong)


def unpacked(row):
    """The parameters in one row of weights, by name."""
    params, stop = {}, 0
    for layer, shape in LAYERS.items():
        for kind, size in (("bias", shape[:1]), ("weight", shape)):
            start, stop = stop, stop + torch.Size(size).numel()
            values = row[start:stop]
            if kind == "weight":
                turned = (*shape[2:], shape[1], shape[0])
                last = len(shape) - 1
                values = values.view(turned).permute(last, last - 1, *range(last - 1))
            params[f"{layer}.{kind}"] = values.contiguous()
    return params


class TestFailures:
    """A command that failed leaves nothing that blocks the right one."""

    def test_too_few_images_for_a_batch(self, tmp_path, images):
        config = replace(CONFIG, batch_size=500)
        with pytest.raises(ValueError, match="Lower the batch size"):
            generate(tmp_path, images, config=config)
        generate(tmp_path, images)

    def test_a_failure_while_the_first_ones_train(self, tmp_path, images, monkeypatch):
        def fail(*_, **__):
            raise MemoryError

        monkeypatch.setattr(small_cnn_training, "train_group", fail)
        with pytest.raises(MemoryError):
            generate(tmp_path, images, config=replace(CONFIG, seed=1))
        monkeypatch.undo()
        generate(tmp_path, images)
        with pytest.raises(ValueError, match="Repeat them"):
            generate(tmp_path, images, config=replace(CONFIG, seed=1))

    @pytest.mark.parametrize("size", [0, 100])
    def test_an_empty_or_truncated_file_is_made_again(self, tmp_path, images, size):
        generate(tmp_path, images)
        before = (tmp_path / "weights.npy").read_bytes()
        path = sorted((tmp_path / "groups").iterdir())[1]
        path.write_bytes(path.read_bytes()[:size])
        seen = []
        generate(tmp_path, images, announce=lambda done, _: seen.append(done))
        assert len(seen) == 1
        assert (tmp_path / "weights.npy").read_bytes() == before

    def test_a_file_of_other_networks_is_named(self, tmp_path, images):
        generate(tmp_path, images)
        first, second, *_ = sorted((tmp_path / "groups").iterdir())
        content = {"weights": torch.zeros(1, 1, 4970)}
        first.write_bytes(save(content))
        with pytest.raises(ValueError, match=r"0000\.safetensors: it holds.*Delete it"):
            generate(tmp_path, images)
        assert second.is_file()
