import math

import pytest
import torch

from optimizees.siren import (
    Siren,
    draw_siren,
    pixel_grid,
    render,
    render_images,
    siren_values,
)


@pytest.fixture
def stack():
    """Three drawn networks in float64, stacked."""
    generator = torch.Generator().manual_seed(0)
    draws = [draw_siren(generator=generator, last_layer="linear") for _ in range(3)]
    return {
        name: torch.stack([draw[name] for draw in draws]).double() for name in draws[0]
    }


def test_its_parameters_are_those_of_the_published_data():
    shapes = {name: tuple(w.shape) for name, w in Siren().state_dict().items()}
    assert shapes == {
        "seq.0.weight": (32, 2),
        "seq.0.bias": (32,),
        "seq.1.weight": (32, 32),
        "seq.1.bias": (32,),
        "seq.2.weight": (1, 32),
        "seq.2.bias": (1,),
    }
    assert sum(math.prod(shape) for shape in shapes.values()) == 1185


def test_it_computes_the_formula(stack):
    points = pixel_grid(5, torch.float64)
    one = {name: weight[1] for name, weight in stack.items()}
    hidden = torch.sin(30 * (points @ one["seq.0.weight"].T + one["seq.0.bias"]))
    hidden = torch.sin(30 * (hidden @ one["seq.1.weight"].T + one["seq.1.bias"]))
    wanted = hidden @ one["seq.2.weight"].T + one["seq.2.bias"] + 0.5
    torch.testing.assert_close(render(one, points), wanted, rtol=1e-9, atol=1e-12)
    model = Siren().double()
    model.load_state_dict(one)
    torch.testing.assert_close(model(points), wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(render(stack, points)[1], wanted, rtol=1e-9, atol=1e-12)


def test_values_of_every_layer(stack):
    values = siren_values(stack, pixel_grid(4, torch.float64))
    assert [tuple(value.shape) for value in values] == [
        (3, 16, 2),
        (3, 16, 32),
        (3, 16, 32),
        (3, 16, 1),
    ]
    assert values[1].abs().max() <= 1
    assert torch.equal(values[0][2], pixel_grid(4, torch.float64))


def test_rows_follow_each_other_and_x_is_the_fastest():
    grid = pixel_grid(3)
    assert grid[:4].tolist() == [[-1, -1], [0, -1], [1, -1], [-1, 0]]
    column_ramp = {
        "seq.0.weight": torch.tensor([[1.0, 0.0]]),
        "seq.0.bias": torch.tensor([-0.5]),
    }
    image = render_images(column_ramp, 3)
    assert image.tolist() == [[-1.0, 0.0, 1.0]] * 3


def test_initial_weights_lie_within_their_reach():
    draw = draw_siren(generator=torch.Generator().manual_seed(3))
    for layer, inputs in enumerate((2, 32, 32)):
        reach = math.sqrt(6 / inputs) / 30
        weight = draw[f"seq.{layer}.weight"].abs().max()
        assert 0.8 * reach < weight <= reach
        assert not draw[f"seq.{layer}.bias"].any()


def test_a_linear_last_layer_is_drawn_as_torch_draws_it():
    draw = draw_siren(generator=torch.Generator().manual_seed(3), last_layer="linear")
    assert 0.8 / 32**0.5 < draw["seq.2.weight"].abs().max() <= 1 / 32**0.5
    assert 0 < draw["seq.2.bias"].abs() <= 1 / 32**0.5


def test_it_needs_two_widths():
    with pytest.raises(ValueError, match="Pass at least two, such as"):
        Siren((2,))
