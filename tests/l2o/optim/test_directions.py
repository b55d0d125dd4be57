import pytest
import torch

from l2o.optim.directions import ADAM, NUM_DIRECTIONS, find_directions, whiten
from l2o.optim.state import (
    MOMENTUM_DECAYS,
    advance_parameter_state,
    init_parameter_state,
)


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
        for index, decay in enumerate(MOMENTUM_DECAYS):
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


class TestWhitening:
    def draw(self, *shape):
        generator = torch.Generator().manual_seed(1)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    @pytest.mark.parametrize("shape", [(4, 4), (3, 8), (8, 3), (1, 5), (5, 1), (1, 1)])
    def test_it_brings_singular_values_together(self, shape):
        rows, columns = shape
        matrix = self.draw(rows, columns)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        spread = torch.linspace(1.0, 0.05, len(values), dtype=torch.float64)
        found = whiten(left @ (spread[:, None] * right))
        assert found.square().mean().sqrt() == pytest.approx(1.0)
        # The quintic sends 0.05 and 1 to between 0.7 and 1.2 of one another's scale.
        after = torch.linalg.svdvals(found)
        assert after.max() / after.min() < 2

    def test_it_keeps_the_singular_vectors(self):
        matrix = self.draw(3, 5)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inner = left.T @ whiten(matrix) @ right.T
        off = inner - inner.diagonal().diag()
        assert off.abs().max() < 1e-9
        assert (inner.diagonal() > 0).all()

    @pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
    def test_relabelling_rows_and_columns_relabels_it(self, shape):
        matrix = self.draw(*shape)
        rows, columns = torch.randperm(shape[0]), torch.randperm(shape[1])
        torch.testing.assert_close(
            whiten(matrix[rows][:, columns]),
            whiten(matrix)[rows][:, columns],
            rtol=1e-9,
            atol=1e-9,
        )

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_it_does_not_see_the_scale(self, scale):
        matrix = self.draw(3, 5)
        torch.testing.assert_close(
            whiten(scale * matrix), whiten(matrix), rtol=1e-9, atol=1e-9
        )

    def test_zero_stays_zero(self):
        assert not whiten(torch.zeros(3, 5)).any()

    def test_a_kernel_is_a_matrix_of_rows(self, grads, state):
        """Nesterov's look ahead on Adam's momentum, whitened over output channels."""
        ahead = 0.9 * state["momenta"][1] + 0.1 * grads[-1]
        expected = whiten(ahead.reshape(4, 6)).reshape(4, 3, 2)
        found = find_directions(grads[-1], state).steps[-1]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)

    def test_a_vector_has_adams_direction_instead(self):
        grad = self.draw(5)
        state = advance_parameter_state(init_parameter_state(grad), grad)
        steps, _ = find_directions(grad, state)
        assert torch.equal(steps[-1], steps[ADAM])
