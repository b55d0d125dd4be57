import math
from dataclasses import replace

import pytest
import torch

from optimizees import Family, FunctionalTask, ImageTransformer, build_problem
from optimizees.data.images import ImageData
from optimizees.sampling import Problem

PROBLEM = Problem(
    network="mlp",
    width=8,
    depth=2,
    activation="tanh",
    kernel_size=3,
    norm="none",
    image_size=7,
    classes=(4, 7, 1),
    batch_size=8,
    init_scale=1.0,
    unit_spread=1.0,
    seed=0,
)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(60, 1, 14, 14, generator=generator)
    return ImageData(pixels, torch.arange(60) % 10, source="random images")


@pytest.fixture
def draws():
    def draw(count=200, seed=0, **changes):
        generator = torch.Generator().manual_seed(seed)
        family = Family(**changes)
        return [family.draw(generator) for _ in range(count)]

    return draw


class TestDraw:
    def test_ranges_are_kept_and_filled(self, draws):
        found = draws(width=(8, 32), depth=(1, 3), batch_size=(16, 128))
        assert {item.width for item in found} == {8, 12, 16, 20, 24, 28, 32}
        assert {item.depth for item in found} == {1, 2, 3}
        assert {len(item.classes) for item in found} == set(range(2, 11))
        sizes = torch.tensor([float(item.batch_size) for item in found])
        assert 16 <= sizes.min() < 20 < 110 < sizes.max() <= 128
        # The mean of the logarithm, with a standard error of 0.04.
        assert sizes.log().mean() == pytest.approx(math.log(16 * 128) / 2, abs=0.15)

    def test_every_choice_comes(self, draws):
        found = draws()
        for name, field in (("network", "networks"), ("norm", "norms")):
            assert {getattr(item, name) for item in found} == set(
                getattr(Family(), field)
            )
        assert {item.image_size for item in found} == {7, 14}
        assert all(len(set(item.classes)) == len(item.classes) for item in found)

    def test_the_seed_decides(self, draws):
        assert draws(5) == draws(5)
        assert draws(5) != draws(5, seed=1)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width": (32, 8)}, r"width=\(32, 8\)\. Swap or raise"),
            ({"depth": (0, 2)}, r"depth=\(0, 2\)\. Swap or raise"),
            ({"init_scale": (0.0, 1.0)}, r"init_scale=\(0\.0, 1\.0\)\. Swap or raise"),
            ({"norms": ()}, r"norms=\(\)\. Add one"),
            ({"num_classes": (1, 3)}, r"num_classes=\(1, 3\)\. Narrow"),
            ({"num_classes": (2, 11)}, r"num_classes=\(2, 11\)\. Narrow"),
            ({"unit_spread": 0.5}, r"unit_spread=0\.5\. Choose 1 for none"),
        ],
        ids=str,
    )
    def test_bad_ranges_are_named(self, changes, message):
        with pytest.raises(ValueError, match=f"Family .*{message}"):
            Family(**changes)


class TestBuild:
    @pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
    @pytest.mark.parametrize("network", ["mlp", "cnn", "residual", "attention"])
    def test_every_kind_trains(self, images, network, norm):
        """A gradient reaches every parameter, and a step along it lowers the loss."""
        problem = replace(PROBLEM, network=network, norm=norm)
        task = FunctionalTask(build_problem(problem, images))
        params, batch = task.init_params(0), task.batches(0).next()
        assert batch.inputs.shape == (8, 1, 7, 7)
        assert set(batch.targets.tolist()) <= {0, 1, 2}
        loss, grads, _ = task.loss_and_grads(params, batch)
        assert loss == pytest.approx(math.log(3), abs=0.8)
        moved = {name: param - 1e-3 * grads[name] for name, param in params.items()}
        assert task.loss(moved, batch) < loss
        reached = [name for name, grad in grads.items() if grad.abs().max() > 0]
        # A bias before a normalisation, and that of the keys, change nothing.
        assert len(reached) > len(grads) / 2

    def test_second_derivatives_exist(self, images):
        """Estimators may differentiate through gradients, attention's included."""
        problem = replace(PROBLEM, network="attention")
        task = FunctionalTask(build_problem(problem, images))
        params = {n: p.requires_grad_() for n, p in task.init_params(0).items()}
        loss = task.loss(params, task.batches(0).next())
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        sum(grad.square().sum() for grad in grads).backward()
        assert params["blocks.0.query.weight"].grad.abs().max() > 0

    def test_it_is_what_its_label_says(self, images):
        task = build_problem(PROBLEM, images)
        assert task.name == "mlp 8 x 2 tanh none norm, 7 px, 3 classes, batches of 8"
        assert task.source.endswith("classes 4, 7, 1, 18 images to train on")

    def test_patches_must_cover_the_image(self):
        with pytest.raises(ValueError, match=r"num_heads=2\. Pass divisors"):
            ImageTransformer(1, 14, 4, 8, 1)


def test_the_initial_scale_is_one_of_matrices(images):
    natural, scaled = (
        FunctionalTask(build_problem(replace(PROBLEM, init_scale=scale), images))
        for scale in (1.0, 3.0)
    )
    found = scaled.init_params(0)
    for name, param in natural.init_params(0).items():
        factor = 3 if param.ndim > 1 else 1
        torch.testing.assert_close(found[name], factor * param)
