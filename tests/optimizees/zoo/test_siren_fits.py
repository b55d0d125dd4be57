import pytest
import torch
from torch.nn import functional

from optimizees.siren import Siren, pixel_grid, render_images
from optimizees.zoo.siren_fits import FitConfig, fit_sirens, initial_weights

CONFIG = FitConfig(steps=6)


@pytest.fixture(scope="module")
def images():
    return torch.rand(
        5, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def draws():
    return [initial_weights(CONFIG, 0, index) for index in range(5)]


@pytest.fixture(scope="module")
def fitted(images, draws):
    return fit_sirens(images, draws, CONFIG)


def grid(height, width):
    """Places of the pixels of an image that is no square."""
    y = torch.linspace(-1, 1, height, dtype=torch.float64)
    x = torch.linspace(-1, 1, width, dtype=torch.float64)
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)


def train_alone(image, draw, *, steps=CONFIG.steps, lr=CONFIG.lr):
    """Train one network with autograd and torch's Adam; return it and its error."""
    model = Siren().double()
    model.load_state_dict(draw)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    points, target = grid(*image.shape), image.reshape(-1, 1)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.mse_loss(model(points), target).backward()
        optimizer.step()
    with torch.no_grad():
        return model.state_dict(), functional.mse_loss(model(points), target)


def assert_like_training_alone(images, draws, fitted):
    networks, errors = fitted
    for index, (image, draw) in enumerate(zip(images, draws, strict=True)):
        wanted, error = train_alone(image, draw)
        # Adam divides by roots of squares, which magnify what rounding leaves.
        for name, weight in wanted.items():
            torch.testing.assert_close(
                networks[name][index], weight, rtol=1e-8, atol=1e-11
            )
        torch.testing.assert_close(errors[index], error, rtol=1e-9, atol=1e-12)


def test_fits_are_those_of_training_each_network_alone(images, draws, fitted):
    assert_like_training_alone(images, draws, fitted)


def test_that_law_can_fail(images, draws):
    turned = fit_sirens(images.flip(1), draws, CONFIG)
    with pytest.raises(AssertionError):
        assert_like_training_alone(images, draws, turned)


@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fit_does_not_depend_on_its_companions(draws, at_once, dtype):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(5, 28, 28, dtype=dtype, generator=generator)
    networks, errors = fit_sirens(images, draws, CONFIG)
    others, other_errors = fit_sirens(images, draws, CONFIG, at_once=at_once)
    assert all(torch.equal(networks[name], others[name]) for name in networks)
    assert torch.equal(errors, other_errors)


def test_a_real_fit_shows_the_image():
    image = torch.zeros(1, 28, 28)
    image[:, 8:20, 11:17] = 1
    draw = initial_weights(FitConfig(), 0, 0)
    networks, errors = fit_sirens(image, [draw], FitConfig(steps=150))
    shown = render_images(networks)
    torch.testing.assert_close((shown - image).square().mean((1, 2)), errors)
    assert errors < 0.01
    assert len(pixel_grid(28)) == image.numel()


def test_initial_weights_depend_on_seed_set_and_number():
    same = initial_weights(CONFIG, 0, 7)["seq.1.weight"]
    assert torch.equal(same, initial_weights(CONFIG, 0, 7)["seq.1.weight"])
    for config, part, index in (
        (FitConfig(seed=1), 0, 7),
        (CONFIG, 1, 7),
        (CONFIG, 0, 8),
    ):
        other = initial_weights(config, part, index)["seq.1.weight"]
        assert not torch.equal(same, other)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"lr": 0.0}])
def test_settings_must_be_positive(settings):
    with pytest.raises(ValueError, match="Choose positive numbers"):
        FitConfig(**settings)


def test_each_image_needs_its_initial_weights(images, draws):
    with pytest.raises(ValueError, match="Draw one for each with draw_siren"):
        fit_sirens(images, draws[:2], CONFIG)
