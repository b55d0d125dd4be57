import math

import pytest
import torch
from oracles import (
    AVERAGES,
    DIRECTIONS,
    advance_parameter_state,
    find_directions,
    init_parameter_state,
)

from l2o import PRESETS, Rule, neural_graph
from l2o.rule.config import NominalHeadConfig, ScaleFreeFeaturesConfig
from l2o.rule.features import LogSignFeatures, ScaleFreeFeatures
from l2o.rule.state import Reading
from l2o.rule.tile_io import TileIO


@pytest.fixture
def history():
    """A parameter, ten gradients, and the state after them, in float64."""
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    grads = torch.randn(10, 4, 3, generator=generator, dtype=torch.float64)
    state = init_parameter_state(param)
    for grad in grads:
        state = advance_parameter_state(state, grad)
    return param, grads, state


def read(features, param, grad, state):
    graph = neural_graph({"": param})
    entries = TileIO(
        Reading(graph, {"": param}, {"": grad}, {"": state}),
        directions=DIRECTIONS,
        head=NominalHeadConfig().build(DIRECTIONS),
        features=features,
        dtype=param.dtype,
        cut=None,
        memory_limit=None,
    )
    (tile,) = (*entries.tiles.edges, *entries.tiles.nodes)
    entry = entries.read(tile).reshape(*param.shape, -1)
    (context,) = entries.context
    assert entry.shape == (*param.shape, features.num_features)
    assert context.shape == (features.num_context,)
    return entry, context


class TestLogSign:
    features = LogSignFeatures(DIRECTIONS)

    def test_a_number_is_its_logarithm_and_its_sign(self):
        state = init_parameter_state(torch.zeros(5, dtype=torch.float64))
        values = torch.tensor([1.0, -math.e, math.exp(-5), -1e3, 0.5])
        entry, _ = read(self.features, values.double(), values * 0.0, state)
        expected = torch.tensor(
            [0.0, 0.1, -0.5, math.log(1e3) / 10, math.log(0.5) / 10]
        )
        torch.testing.assert_close(entry[:, 0].float(), expected)
        assert entry[:, 7].tolist() == [1, -1, 1, -1, 1]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_below_the_tenth_power_of_e_it_is_linear(self, dtype):
        edge = torch.exp(torch.tensor(-10.0, dtype=dtype))
        values = torch.stack([edge / 2, -edge / 4, edge * 0])
        state = init_parameter_state(values)
        entry, _ = read(self.features, values, values, state)
        assert entry[:, 0].tolist() == [-1, -1, -1]
        torch.testing.assert_close(
            entry[:, 7], torch.tensor([0.5, -0.25, 0.0], dtype=dtype)
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_both_sides_meet_at_the_edge(self, dtype):
        edge = torch.exp(torch.tensor(-10.0, dtype=dtype))
        below = torch.nextafter(edge, edge * 0)
        for sign in (1, -1):
            values = sign * torch.stack([edge, below])
            entry, _ = read(self.features, values, values, init_parameter_state(values))
            at_edge, just_below = entry[:, [0, 7]]
            tight = {"rtol": 1e-6, "atol": 1e-6}
            torch.testing.assert_close(at_edge, just_below, **tight)
            expected = torch.tensor([-1.0, sign], dtype=dtype)
            torch.testing.assert_close(at_edge, expected, **tight)

    def test_momenta_enter_as_the_papers_sums(self, history):
        """They are kept as averages and accumulated in the paper as m = b m + g."""
        param, grads, state = history
        entry, context = read(self.features, param, grads[-1], state)
        assert context.numel() == 0
        values = [param, grads[-1]]
        for decay in AVERAGES.momentum_decays:
            total = torch.zeros_like(param)
            for grad in grads:
                total = decay * total + grad
            values.append(total)
        assert min(value.abs().min() for value in values) > math.exp(-10)
        for index, value in enumerate(values):
            torch.testing.assert_close(
                entry[..., index], value.abs().log() / 10, rtol=1e-9, atol=1e-12
            )
            assert torch.equal(entry[..., 7 + index], value.sign())


class TestScaleFree:
    features = ScaleFreeFeatures(ScaleFreeFeaturesConfig(), DIRECTIONS)

    def test_entries_stand_beside_their_tensor(self, history):
        param, grads, state = history
        entry, _ = read(self.features, param, grads[-1], state)
        steps, root = find_directions(grads[-1], state)
        values = torch.stack([param, grads[-1], *state["momenta"]])
        relative = values / values.square().mean((1, 2), keepdim=True).sqrt()
        expected = torch.cat(
            [
                steps,
                relative,
                (root / root.square().mean().sqrt()).log()[None],
            ]
        )
        torch.testing.assert_close(
            entry, expected.movedim(0, -1).clamp(-5, 5), rtol=1e-9, atol=1e-12
        )

    def test_the_context_is_signal_size_count_and_clock(self, history):
        param, grads, state = history
        _, context = read(self.features, param, grads[-1], state)
        ratios = find_directions(grads[-1], state).steps[:6]
        signal = ratios.square().mean((1, 2)).sqrt().log() / 2
        torch.testing.assert_close(context[:6], signal, rtol=1e-9, atol=1e-12)
        size = param.square().mean().sqrt().log() / 2
        torch.testing.assert_close(context[6], size, rtol=1e-9, atol=1e-12)
        assert context[7].item() == pytest.approx(math.log(12) / 10)
        assert context[8] == 2 / 4
        scales = (10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4)
        clock = [math.tanh(9 / scale - 1) for scale in scales]
        assert context[9:].tolist() == pytest.approx(clock)

    def test_the_clock_may_be_another(self, history):
        config = ScaleFreeFeaturesConfig(time_scales=(9.0,))
        param, grads, state = history
        features = ScaleFreeFeatures(config, DIRECTIONS)
        _, context = read(features, param, grads[-1], state)
        assert features.num_context == 10
        assert context[-1] == 0

    @pytest.mark.parametrize("size", [0.0, 1e-15, 1e10])
    @pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
    def test_extremes_are_clipped(self, size, shape):
        param = torch.full(shape, size)
        state = advance_parameter_state(init_parameter_state(param), param)
        entry, context = read(self.features, param, param, state)
        assert entry.isfinite().all()
        assert context.isfinite().all()
        assert entry.abs().max() <= 5
        assert context.abs().max() <= 5

    def test_a_single_spike_is_clipped(self):
        grad = torch.zeros(1000)
        grad[0] = 1.0
        state = advance_parameter_state(init_parameter_state(grad), grad)
        entry, _ = read(self.features, grad, grad, state)
        assert entry.abs().max() == 5


@pytest.mark.parametrize("name", PRESETS)
def test_every_rule_reads_what_its_features_give(name):
    rule = Rule(PRESETS[name])
    param = torch.ones(2, 3)
    read(rule.features, param, param, init_parameter_state(param))
