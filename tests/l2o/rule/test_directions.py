import pytest
import torch
from oracles import (
    ADAM,
    AVERAGES,
    NUM_DIRECTIONS,
    advance_parameter_state,
    find_directions,
    init_parameter_state,
)

from l2o.rule.newton_schulz import whiten


@pytest.fixture
def grads():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(10, 4, 3, 2, generator=generator, dtype=torch.float64)


@pytest.fixture
def state(grads):
    state = init_parameter_state(grads[0])
    for grad in grads:
        state = advance_parameter_state(state, grad)
    return state


class TestRatios:
    def test_one_of_them_is_adams(self, grads, state):
        param = torch.zeros_like(grads[0]).requires_grad_()
        adam = torch.optim.Adam([param], lr=1.0)
        for grad in grads:
            before = param.detach().clone()
            param.grad = grad
            adam.step()
        found = find_directions(grads[-1], state).steps[ADAM]
        # What Adam adds is the difference of two parameters of size 1.
        torch.testing.assert_close(
            -found, param.detach() - before, rtol=1e-9, atol=1e-12
        )

    def test_all_stand_over_the_root_second_moment(self, grads, state):
        steps, root = find_directions(grads[-1], state)
        assert steps.shape == (NUM_DIRECTIONS, 4, 3, 2)
        expected = (state["second_moment"] / (1 - 0.999**10)).sqrt() + 1e-8
        torch.testing.assert_close(root, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(steps[0], grads[-1] / root, rtol=1e-12, atol=0)
        for index, decay in enumerate(AVERAGES.momentum_decays):
            corrected = state["momenta"][index] / (1 - decay**10)
            torch.testing.assert_close(
                steps[1 + index], corrected / root, rtol=1e-9, atol=0
            )

    def test_before_any_gradient_all_are_zero(self):
        """A frozen parameter stays in this state for ever."""
        for shape in ((), (3,), (2, 3)):
            zeros = torch.zeros(shape)
            steps, root = find_directions(zeros, init_parameter_state(zeros))
            assert not steps.any()
            assert root.isfinite().all()


class TestWhitened:
    """The last direction; `whiten` itself has tests of its own."""

    def test_a_kernel_is_a_matrix_of_rows(self, grads, state):
        """Nesterov's look ahead on Adam's momentum, whitened over output channels."""
        ahead = 0.9 * state["momenta"][1] + 0.1 * grads[-1]
        expected = whiten(ahead.reshape(4, 6)).reshape(4, 3, 2)
        found = find_directions(grads[-1], state).steps[-1]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)

    def test_a_vector_has_adams_direction_instead(self):
        grad = torch.arange(5.0) - 2
        state = advance_parameter_state(init_parameter_state(grad), grad)
        steps, _ = find_directions(grad, state)
        assert torch.equal(steps[-1], steps[ADAM])
