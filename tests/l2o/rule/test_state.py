import pytest
import torch
from oracles import advance_parameter_state, init_parameter_state

from l2o.rule import state as rule_state
from l2o.rule.state import Averages, constant

MOMENTUM_DECAYS = Averages().momentum_decays


@pytest.fixture
def grads():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(10, 4, 3, generator=generator, dtype=torch.float64)


@pytest.fixture
def state(grads):
    state = init_parameter_state(grads[0])
    for grad in grads:
        state = advance_parameter_state(state, grad)
    return state


def test_momenta_are_moving_averages_from_zero(grads, state):
    for index, decay in enumerate(MOMENTUM_DECAYS):
        expected = torch.zeros(4, 3, dtype=torch.float64)
        for grad in grads:
            expected = decay * expected + (1 - decay) * grad
        found = state["momenta"][index]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_second_moment_is_adams(grads, state):
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for grad in grads:
        expected = 0.999 * expected + 0.001 * grad.square()
    torch.testing.assert_close(state["second_moment"], expected, rtol=1e-12, atol=0)
    assert state["step"] == 10


def test_the_first_state_is_zero_and_of_the_parameters_type():
    state = init_parameter_state(torch.ones(2, dtype=torch.float64))
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "step": (),
        "momenta": (5, 2),
        "second_moment": (2,),
    }
    assert not any(value.any() for value in state.values())
    assert state["momenta"].dtype == torch.float64
    assert state["step"].dtype == torch.int64


def test_the_papers_decays():
    assert MOMENTUM_DECAYS == (0.5, 0.9, 0.99, 0.999, 0.9999)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decays_have_a_range(decay):
    with pytest.raises(ValueError, match=r"decays must lie in \[0, 1\)"):
        Averages(momentum_decays=(decay,))


def test_adams_direction_needs_its_momentum():
    with pytest.raises(ValueError, match=r"need a momentum of decay 0\.9"):
        _ = Averages(momentum_decays=(0.5,)).adam_momentum


class TestConstants:
    """They are made once where nothing transforms or records a step."""

    def test_they_are_made_once_without_autograd(self):
        like = torch.zeros(1)
        with torch.no_grad():
            first, again = constant((1.0, 2.0), like), constant((1.0, 2.0), like)
            wide = constant((1.0, 2.0), like, torch.float64)
        assert first is again
        assert wide.dtype == torch.float64
        assert wide.tolist() == first.tolist() == [1.0, 2.0]

    def test_they_are_made_anew_elsewhere(self):
        like = torch.zeros(1)
        assert constant((1.0,), like) is not constant((1.0,), like)

    def test_they_do_not_pile_up(self):
        with torch.no_grad():
            for number in range(2 * rule_state._MOST_CONSTANTS):
                constant((float(number),), torch.zeros(1))
        assert len(rule_state._constants) <= rule_state._MOST_CONSTANTS
