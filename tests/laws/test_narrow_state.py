"""A state in bfloat16: half the memory, no bias, no trace in what it does not touch."""

import math

import pytest
import torch
from oracles import AVERAGES
from torch import nn

from l2o import NeuralGraphOpt, Rule, neural_graph, with_theta
from l2o.optim import in_place
from l2o.optim.in_place import advance_in_place, narrowed_like, widened_averages
from l2o.rule.state import averages_as
from l2o.rule.step import complete_state, propose_updates

STEPS = 500


def follow(entries=4000):
    """Return averages of a constant gradient after many steps, and in float64."""
    grads = {"w": torch.full((entries,), 0.3)}
    narrow = averages_as(AVERAGES.init_state(grads), torch.bfloat16)
    exact = AVERAGES.init_state({"w": grads["w"][:1].double()})
    for _ in range(STEPS):
        advance_in_place(AVERAGES, narrow, grads)
        exact = AVERAGES.advance(exact, {"w": grads["w"][:1].double()})
    return narrow["w"], exact["w"]


def errors(found, exact):
    """Return how far the mean over entries is off, one number an average."""
    rows = (*found["momenta"], found["second_moment"])
    expected = torch.cat([exact["momenta"], exact["second_moment"][None]])
    means = torch.stack([row.double().mean() for row in rows])
    return (means / expected[:, 0] - 1).abs()


class TestTheMean:
    def test_it_follows_the_gradients(self):
        """At all decays, 0.9999 included, where a step changes the 13th bit."""
        found, exact = follow()
        assert found["momenta"].dtype == torch.bfloat16
        assert errors(found, exact).max() < 1e-3

    def test_to_the_nearest_it_does_not(self, monkeypatch):
        monkeypatch.setattr(in_place, "rounded", lambda values, noise: values)
        assert errors(*follow())[4] > 0.2


@pytest.fixture(scope="module")
def grads():
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (40, 30), "0.bias": (40,), "1.weight": (2, 40)}
    return [
        {name: torch.randn(s, generator=generator) for name, s in shapes.items()}
        for _ in range(3)
    ]


def test_in_pieces_and_whole_the_rounding_is_the_same(grads, monkeypatch):
    monkeypatch.setattr(in_place, "PIECE_ENTRIES", 100)
    pure = averages_as(AVERAGES.init_state(grads[0]), torch.bfloat16)
    written = averages_as(AVERAGES.init_state(grads[0]), torch.bfloat16)
    for step in grads:
        advance_in_place(AVERAGES, written, step)
        pure = narrowed_like(AVERAGES.advance(widened_averages(pure), step), pure)
    for name, item in pure.items():
        for key, value in item.items():
            assert torch.equal(written[name][key], value)
    assert pure["0.weight"]["momenta"].dtype == torch.bfloat16


def test_what_the_rule_makes_of_it_is_computed_in_float32(
    small_config, random_rule, grads
):
    """The update is that of the same in_place, given in float32."""
    rule, params = random_rule(small_config, dtype=torch.float32), grads[0]
    graph = neural_graph(params)
    narrow = complete_state(rule, params, {}, torch.bfloat16)
    advance_in_place(AVERAGES, narrow, grads[1])
    with torch.no_grad():
        args = (rule, graph, params, grads[1])
        found = propose_updates(*args, narrow)
        expected = propose_updates(*args, widened_averages(narrow))
    for name, update in expected.items():
        assert torch.equal(found[name], update)


class TestTheOption:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_averages_are_narrow_and_steps_are_counted(self, dtype):
        model = nn.Linear(3, 2).to(dtype)
        optimizer = NeuralGraphOpt(
            model.parameters(), rule="ff", state_dtype=torch.bfloat16
        )
        scale = nn.Parameter(torch.ones((), dtype=dtype))
        optimizer.add_param_group({"params": [scale]})
        for _ in range(2):
            (scale * model(torch.ones(1, 3, dtype=dtype))).sum().backward()
            optimizer.step()
        for param in (*model.parameters(), scale):
            types = {key: v.dtype for key, v in optimizer.state[param].items()}
            assert types.pop("step") == torch.int64
            assert set(types.values()) == {torch.bfloat16}
            assert optimizer.state[param]["step"] == 2
        assert optimizer.diagnostics().steps == 2

    def test_a_wide_state_may_be_loaded_and_back(self):
        model = nn.Linear(3, 2)
        wide = NeuralGraphOpt(model.parameters(), rule="ff")
        model(torch.ones(1, 3)).sum().backward()
        wide.step()
        narrow = NeuralGraphOpt(
            model.parameters(), rule="ff", state_dtype=torch.bfloat16
        )
        narrow.load_state_dict(wide.state_dict())
        assert narrow.state[model.bias]["momenta"].dtype == torch.bfloat16
        wide.load_state_dict(narrow.state_dict())
        assert wide.state[model.bias]["momenta"].dtype == torch.float32

    def test_other_types_are_refused(self):
        with pytest.raises(ValueError, match="or with state_dtype=None in float32"):
            NeuralGraphOpt(nn.Linear(3, 2).parameters(), state_dtype=torch.float16)

    def test_so_are_other_rules(self):
        """Nobody knows what their states hold."""
        rule = with_theta(Rule(), {})
        params = nn.Linear(3, 2).parameters()
        with pytest.raises(ValueError, match=r"needs a rule .* Leave state_dtype out"):
            NeuralGraphOpt(params, rule=rule, state_dtype=torch.bfloat16)


@pytest.fixture
def run(small_config, random_rule, grads):
    """Take steps with a narrow state; return weights and averages."""
    rule = random_rule(small_config, dtype=torch.float32)

    def take(spoilt=None, steps=grads):
        params = {name: nn.Parameter(0.1 * g) for name, g in grads[0].items()}
        optimizer = NeuralGraphOpt(
            params.items(), rule=rule, state_dtype=torch.bfloat16
        )
        for number, step in enumerate(steps):
            for name, param in params.items():
                param.grad = step[name].clone()
            if number == spoilt:
                params["0.bias"].grad[0] = math.nan
            optimizer.step()
        averages = [item["momenta"] for item in optimizer.state.values()]
        return [*params.values(), *averages]

    return take


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_skipped_step_leaves_no_trace(run, grads, monkeypatch, is_asked):
    if not is_asked:
        monkeypatch.setattr(
            in_place.InPlaceMemory, "may_ask", lambda self, device: False
        )
    found = run(spoilt=1)
    expected = run(steps=[grads[0], grads[2]])
    for tensor, other in zip(found, expected, strict=True):
        assert torch.equal(tensor, other)
    assert not torch.equal(found[0], run(steps=grads)[0])
