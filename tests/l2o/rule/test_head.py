import pytest
import torch
from oracles import (
    ADAM,
    DIRECTIONS,
    NUM_DIRECTIONS,
    WHITENED,
    advance_parameter_state,
    find_directions,
    init_parameter_state,
)
from torch import nn

from l2o import neural_graph
from l2o.rule.config import NominalHeadConfig, PaperHeadConfig


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def directions():
    grad = draw(4, 3)
    state = advance_parameter_state(init_parameter_state(grad), grad)
    return find_directions(grad.flip(0), advance_parameter_state(state, grad.flip(0)))


def assert_exact(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("size", [0.01, 0.1])
def test_the_papers_head(directions, size):
    outputs = 3 * draw(4, 3, 2, seed=1)
    found = PaperHeadConfig(step_size=size).build(DIRECTIONS)(outputs, directions)
    assert_exact(found, size * outputs[..., 0] * (size * outputs[..., 1]).exp())


def test_the_papers_step_size_is_the_default():
    assert PaperHeadConfig().step_size == 0.01


@pytest.mark.parametrize("scaled", ["adam", "all"])
@pytest.mark.parametrize("base", ["adam", "whitened"])
def test_the_nominal_head_scales_and_mixes_directions(directions, base, scaled):
    outputs = 3 * draw(4, 3, 1 + NUM_DIRECTIONS, seed=1)
    config = NominalHeadConfig(base=base, scaled=scaled)
    found = config.build(DIRECTIONS)(outputs, directions)
    scale = (6 * torch.tanh(outputs[..., 0] / 6)).exp()
    others = scale if scaled == "all" else 1.0
    row = ADAM if base == "adam" else WHITENED
    expected = directions.steps[row] * scale
    for index in range(NUM_DIRECTIONS):
        term = outputs[..., 1 + index] * directions.steps[index]
        expected = expected + others * term
    assert_exact(found, -0.01 * expected)


@pytest.mark.parametrize("scaled", ["adam", "all"])
@pytest.mark.parametrize("base", ["adam", "whitened"])
@pytest.mark.parametrize("limit", [0.5, None])
def test_no_entry_opposes_the_base_with_a_limit(directions, base, scaled, limit):
    outputs = 30 * draw(4, 3, 1 + NUM_DIRECTIONS, seed=1)
    config = NominalHeadConfig(base=base, scaled=scaled, max_deviation=limit)
    found = config.build(DIRECTIONS)(outputs, directions)
    outputs[..., 1:] = 0.0
    scaled_base = config.build(DIRECTIONS)(outputs, directions)
    ratio = found / scaled_base
    is_within = bool(((ratio > 0.5 - 1e-9) & (ratio < 1.5 + 1e-9)).all())
    assert is_within == (limit is not None)  # without one the law fails


def test_within_the_limit_nothing_changes(directions):
    outputs = 1e-3 * draw(4, 3, 1 + NUM_DIRECTIONS, seed=1)
    free, limited = NominalHeadConfig(), NominalHeadConfig(max_deviation=0.5)
    found = limited.build(DIRECTIONS)(outputs, directions)
    assert_exact(found, free.build(DIRECTIONS)(outputs, directions))


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_a_limit_must_be_positive(limit):
    with pytest.raises(ValueError, match="max_deviation"):
        NominalHeadConfig(max_deviation=limit)


def test_a_rule_that_lowers_its_rate_keeps_its_direction(directions):
    outputs = 3 * draw(4, 3, 1 + NUM_DIRECTIONS, seed=1)
    lower = outputs.clone()
    outputs[..., 0], lower[..., 0] = 0.0, -2.0
    for scaled, is_kept in ("all", True), ("adam", False):
        config = NominalHeadConfig(scaled=scaled)
        plain, small = (
            config.build(DIRECTIONS)(item, directions).flatten()
            for item in (outputs, lower)
        )
        alike = torch.cosine_similarity(plain, small, 0)
        assert (abs(alike - 1) < 1e-12) == is_kept


def test_the_nominal_head_multiplies_by_its_unit(directions):
    outputs = 3 * draw(4, 3, 1 + NUM_DIRECTIONS, seed=1)
    plain = NominalHeadConfig().build(DIRECTIONS)(outputs, directions)
    assert_exact(
        NominalHeadConfig().build(DIRECTIONS)(outputs, directions, 0.3), 0.3 * plain
    )


def test_units_fall_with_the_root_of_the_inputs():
    model = nn.Sequential(
        nn.Conv2d(16, 8, 2, stride=2), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    graph = neural_graph(model, torch.zeros(2, 16, 2, 2))
    found = NominalHeadConfig(unit="fan_in").build(DIRECTIONS).units(graph)
    assert found == {**dict.fromkeys(graph.shapes, 1.0), "0.weight": 0.5}
    narrow = NominalHeadConfig(unit="fan_in", full_fan_in=4.0)
    assert narrow.build(DIRECTIONS).units(graph)["2.weight"] == pytest.approx(0.5**0.5)
    for config in (NominalHeadConfig(unit="one"), PaperHeadConfig()):
        assert set(config.build(DIRECTIONS).units(graph).values()) == {1.0}


def test_the_nominal_head_at_zero_is_adam(directions):
    outputs = torch.zeros(4, 3, 1 + NUM_DIRECTIONS, dtype=torch.float64)
    found = NominalHeadConfig(step_size=0.2).build(DIRECTIONS)(outputs, directions)
    assert_exact(found, -0.2 * directions.steps[ADAM])


def test_the_nominal_scale_is_bounded(directions):
    config = NominalHeadConfig(max_log_scale=2.0)
    sign = draw(4, 3, seed=1).sign()
    wild = torch.zeros(4, 3, 1 + NUM_DIRECTIONS, dtype=torch.float64)
    plain = config.build(DIRECTIONS)(wild, directions)
    wild[..., 0] = 1e6 * sign
    factor = config.build(DIRECTIONS)(wild, directions) / plain
    torch.testing.assert_close(factor.log(), 2 * sign, rtol=1e-9, atol=1e-9)


def test_the_nominal_head_without_gradients_is_zero():
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    outputs = draw(4, 3, 1 + NUM_DIRECTIONS, seed=1)
    state = init_parameter_state(zeros)
    for _ in range(2):
        directions = find_directions(zeros, state)
        assert not NominalHeadConfig().build(DIRECTIONS)(outputs, directions).any()
        state = advance_parameter_state(state, zeros)


def test_every_head_says_how_many_numbers_it_takes():
    assert PaperHeadConfig().build(DIRECTIONS).num_outputs == 2
    assert NominalHeadConfig().build(DIRECTIONS).num_outputs == 8
