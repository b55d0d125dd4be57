import math

import pytest
import torch

from optimizees.siren import draw_siren, pixel_grid, render, render_images
from optimizees.zoo import inr_augmentations as ours
from optimizees.zoo.inr_augmentations import AugmentationConfig, augment

POINTS = pixel_grid(6, torch.float64)


@pytest.fixture
def networks():
    """Four networks in float64 whose biases are not zero."""
    generator = torch.Generator().manual_seed(0)
    draws = [draw_siren(generator=generator, last_layer="linear") for _ in range(4)]
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    stacked["seq.0.bias"].normal_(std=0.05, generator=generator)
    stacked["seq.1.bias"].normal_(std=0.05, generator=generator)
    return {name: weight.double() for name, weight in stacked.items()}


def turn(angle):
    """Return the matrix that turns x towards y."""
    sine, cosine = math.sin(angle), math.cos(angle)
    matrix = [[cosine, -sine], [sine, cosine]]
    return torch.tensor(matrix, dtype=torch.float64)


ANGLES = torch.tensor([0.0, 0.3, -0.7, math.pi / 2], dtype=torch.float64)
SHIFTS = torch.tensor(
    [[0.0, 0.0], [0.25, 0.0], [0.0, -0.2], [0.1, 0.15]], dtype=torch.float64
)
FACTORS = torch.tensor([1.0, 1.2, 0.8, 2.0], dtype=torch.float64)

MOVES = {
    "rotate": (ours.rotate, ANGLES, lambda angle, points: points @ turn(angle).T),
    "rescale": (ours.rescale, FACTORS, lambda factor, points: points * factor),
    "translate": (ours.translate, SHIFTS, lambda shift, points: points + shift),
}
"""Each with amounts, and where it takes places of the image."""


def assert_moves_the_image(networks, move, amounts, place):
    """What stood at a place stands where the move takes it."""
    moved = move(networks, amounts)
    for index, amount in enumerate(amounts):
        one = {name: weight[index] for name, weight in moved.items()}
        before = {name: weight[index] for name, weight in networks.items()}
        torch.testing.assert_close(
            render(one, place(amount, POINTS)),
            render(before, POINTS),
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("name", MOVES)
def test_it_moves_the_image(networks, name):
    assert_moves_the_image(networks, *MOVES[name])


def bias_behind_the_sine(networks, shifts):
    """Move the second layer's bias, as the released code may."""
    moved = ours.translate(networks, shifts)
    shift = networks["seq.0.bias"] - moved["seq.0.bias"]
    second = (
        networks["seq.1.bias"] - (networks["seq.1.weight"] @ shift[..., None])[..., 0]
    )
    return {**networks, "seq.1.bias": second}


@pytest.mark.parametrize(
    ("move", "amounts", "place"),
    [
        (bias_behind_the_sine, *MOVES["translate"][1:]),
        (lambda nets, by: ours.rotate(nets, -by), *MOVES["rotate"][1:]),
        (lambda nets, by: ours.rescale(nets, 1 / by), *MOVES["rescale"][1:]),
    ],
)
def test_that_law_can_fail(networks, move, amounts, place):
    with pytest.raises(AssertionError):
        assert_moves_the_image(networks, move, amounts, place)


def test_a_quarter_turn_turns_the_picture(networks):
    quarter = torch.full((4,), math.pi / 2, dtype=torch.float64)
    turned = render_images(ours.rotate(networks, quarter), 9)
    wanted = render_images(networks, 9).rot90(-1, dims=(1, 2))  # clockwise
    torch.testing.assert_close(turned, wanted, rtol=1e-9, atol=1e-9)


def test_a_move_by_pixels_moves_the_picture(networks):
    pixels = torch.tensor([2.0, 1.0], dtype=torch.float64)
    shift = (pixels * 2 / 8).expand(4, 2)
    moved = render_images(ours.translate(networks, shift), 9)
    wanted = render_images(networks, 9)
    torch.testing.assert_close(
        moved[:, 1:, 2:], wanted[:, :-1, :-2], rtol=1e-9, atol=1e-9
    )


def test_noise_is_noise():
    generator = torch.Generator().manual_seed(0)
    weight = 3 * torch.randn(5, 100, 100, generator=generator, dtype=torch.float64)
    networks = {"weight": weight, "single": torch.ones(5, 1, dtype=torch.float64)}
    noisy = ours.add_noise(networks, 0.1, generator)
    noise = noisy["weight"] - weight
    assert noise.mean((1, 2)).abs().max() < 0.01
    spread = noise.std((1, 2)) / weight.std((1, 2))
    torch.testing.assert_close(
        spread, torch.full_like(spread, 0.1), rtol=0.05, atol=0.0
    )
    assert torch.equal(noisy["single"], networks["single"])
    both = torch.stack([noise.flatten(), weight.flatten()])
    assert torch.corrcoef(both)[0, 1].abs() < 0.02


def test_what_is_not_dropped_keeps_its_value():
    networks = {"weight": torch.full((3, 200, 100), 2.0)}
    generator = torch.Generator().manual_seed(0)
    dropped = ours.drop_parameters(networks, 0.01, generator)["weight"]
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == 0).double().mean() == pytest.approx(0.01, rel=0.2)


def test_all_together_are_drawn_anew_and_change_no_input(networks):
    before = {name: weight.clone() for name, weight in networks.items()}
    generator = torch.Generator().manual_seed(0)
    first = augment(networks, AugmentationConfig(), generator)
    second = augment(networks, AugmentationConfig(), generator)
    again = augment(networks, AugmentationConfig(), torch.Generator().manual_seed(0))
    for name, weight in networks.items():
        assert torch.equal(weight, before[name])
        assert first[name].shape == weight.shape
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], second[name]) or weight[0].numel() == 1


def test_amounts_stay_within_their_reach(networks):
    only = {"rotation": 0.0, "scale": 0.0, "translation": 0.0}
    still = AugmentationConfig(**only, noise=0.0, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    for name, weight in augment(networks, still, generator).items():
        torch.testing.assert_close(weight, networks[name], rtol=1e-12, atol=0.0)
    turned = AugmentationConfig(**only | {"rotation": 45.0}, noise=0.0, dropout=0.0)
    for _ in range(20):
        found = augment(networks, turned, generator)["seq.0.weight"]
        lengths = found.norm(dim=2)
        torch.testing.assert_close(lengths, networks["seq.0.weight"].norm(dim=2))
        cosines = (found * networks["seq.0.weight"]).sum(2) / lengths**2
        assert cosines.min() >= math.cos(math.pi / 4) - 1e-9


@pytest.mark.parametrize(
    "settings", [{"scale": 1.0}, {"dropout": 1.0}, {"noise": -1.0}]
)
def test_amounts_must_make_sense(settings):
    with pytest.raises(ValueError, match="Use 0 to switch one off"):
        AugmentationConfig(**settings)
