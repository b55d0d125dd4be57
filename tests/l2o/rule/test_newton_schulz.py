import math

import pytest
import torch
from oracles import AVERAGES
from torch import nn

from l2o import NeuralGraphOpt, Rule, RuleConfig
from l2o.nets import FeedForwardConfig
from l2o.rule import newton_schulz
from l2o.rule.config import NominalHeadConfig
from l2o.rule.directions import WhitenedConfig
from l2o.rule.newton_schulz import orthogonalize, symmetric_product, whiten
from l2o.rule.whitening import look_ahead


class TestWhiten:
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

    @pytest.mark.parametrize("shape", [(600, 30), (30, 600)])
    def test_long_matrices_take_a_shorter_way_to_the_same(self, shape, monkeypatch):
        matrix = self.draw(*shape)
        with monkeypatch.context() as patch:
            patch.setattr(newton_schulz, "LONG", math.inf)
            direct = whiten(matrix)
        torch.testing.assert_close(whiten(matrix), direct, rtol=1e-9, atol=1e-9)
        monkeypatch.setattr(newton_schulz, "WHITENING_STEPS", 4)
        assert (whiten(matrix) - direct).abs().max() > 1e-3

    def test_a_batch_is_whitened_one_by_one(self):
        batch = self.draw(4, 3, 5)
        one_by_one = torch.stack([whiten(matrix) for matrix in batch])
        torch.testing.assert_close(whiten(batch), one_by_one, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_it_does_not_see_the_scale(self, scale):
        matrix = self.draw(3, 5)
        torch.testing.assert_close(
            whiten(scale * matrix), whiten(matrix), rtol=1e-9, atol=1e-9
        )

    @pytest.mark.parametrize("group_rows", [2, 8])
    def test_zero_stays_zero(self, group_rows):
        assert not whiten(torch.zeros(3, 5), group_rows).any()


class TestOrthogonalize:
    @pytest.mark.parametrize("group_rows", [200, 1024])
    @pytest.mark.parametrize("shape", [(1, 520, 560), (1, 300, 900), (1, 1200, 260)])
    def test_large_matrices_are_written_over_without_autograd(self, shape, group_rows):
        generator = torch.Generator().manual_seed(3)
        matrix = torch.randn(*shape, generator=generator)
        least = torch.full((1, 1, 1), 1e-3)
        expected, norms = orthogonalize(matrix, least, group_rows=group_rows)
        assert expected.data_ptr() != matrix.data_ptr()  # autograd may be recording
        room = matrix.clone()
        with torch.no_grad():
            found, norm = orthogonalize(room, least, group_rows=group_rows)
        assert found.data_ptr() == room.data_ptr()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(norm, norms, rtol=1e-5, atol=0)
        assert not torch.allclose(room, matrix, rtol=0.1, atol=0.1)


class TestGroups:
    """More rows than are whitened together."""

    def draw(self, *shape):
        generator = torch.Generator().manual_seed(2)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    @pytest.mark.parametrize("shape", [(8, 9), (9, 8), (2, 7, 12)])
    def test_relabelling_rows_and_columns_relabels_them(self, shape):
        matrix = self.draw(*shape)
        rows, columns = torch.arange(shape[-2]).roll(1), torch.randperm(shape[-1])

        def permuted(values):
            return values[..., rows, :][..., columns]

        def by_place(values):
            """Groups by where rows stand: what the order by norms is there for."""
            return torch.cat([whiten(half) for half in values.chunk(2, dim=-2)], dim=-2)

        found = permuted(whiten(matrix, 3))
        torch.testing.assert_close(
            whiten(permuted(matrix), 3), found, rtol=1e-9, atol=1e-9
        )
        off = by_place(permuted(matrix)) - permuted(by_place(matrix))
        assert off.abs().max() > 1e-3

    @pytest.mark.parametrize("spread", [1.0, 30.0])
    @pytest.mark.parametrize("count", [2, 4])
    def test_they_come_near_the_whole(self, count, spread):
        scales = torch.logspace(0, -1, 64, base=spread, dtype=torch.float64)
        matrix = self.draw(64, 64) @ (scales[:, None] * self.draw(64, 200))
        whole = whiten(matrix)

        def likeness(found):
            return (found * whole).mean()  # a cosine: both have a mean square of 1

        found = likeness(whiten(matrix, 64 // count))
        halves = [whiten(matrix[start::count]) for start in range(count)]
        alone = torch.stack(halves, dim=1).flatten(0, 1)  # without the last step
        assert found > 0.75
        assert likeness(alone) < found - 0.05

    def test_equal_rows_of_all_groups_do_not_explode(self):
        matrix = torch.ones(8, 8, dtype=torch.float64)
        torch.testing.assert_close(whiten(matrix, 2), matrix)

    def test_a_tall_matrix_has_groups_of_columns(self):
        matrix = self.draw(12, 7)
        torch.testing.assert_close(whiten(matrix, 3), whiten(matrix.T, 3).T)

    def test_as_many_rows_as_are_allowed_make_no_groups(self):
        matrix = self.draw(6, 9)
        assert whiten(matrix, 6).equal(whiten(matrix))
        assert not whiten(matrix, 5).allclose(whiten(matrix))

    def test_vmap_and_gradients_go_through(self):
        batch = self.draw(2, 5, 6)
        expected = torch.stack([whiten(matrix, 2) for matrix in batch])
        torch.testing.assert_close(torch.vmap(lambda m: whiten(m, 2))(batch), expected)
        torch.testing.assert_close(whiten(batch, 2), expected)
        matrix = batch[0].requires_grad_()
        assert torch.autograd.gradcheck(lambda m: whiten(m, 2), matrix)

    @pytest.mark.parametrize("group_rows", [2, 6])
    def test_a_rule_has_those_of_its_configuration(self, group_rows):
        """Untrained with a whitened base, a rule is the whitened momentum."""
        weight, grads = self.draw(6, 8), self.draw(2, 6, 8)
        config = RuleConfig(
            net=FeedForwardConfig(),
            head=NominalHeadConfig(base="whitened", unit="one"),
            directions=(WhitenedConfig(group_rows=group_rows),),
        )
        optimizer = NeuralGraphOpt(
            [("weight", nn.Parameter(weight.clone()))],
            rule=Rule(config).double(),
            safety=None,
        )
        (param,) = optimizer.param_groups[0]["params"]
        state = AVERAGES.init_state({"weight": weight})
        for grad in grads:
            before, param.grad = param.detach().clone(), grad
            optimizer.step()
            state = AVERAGES.advance(state, {"weight": grad})
            white = whiten(look_ahead(grad, state["weight"], 1), group_rows)
            torch.testing.assert_close(param.detach() - before, -0.01 * white)
            assert group_rows == 6 or not white.allclose(
                whiten(look_ahead(grad, state["weight"], 1))
            )


class TestSymmetricProduct:
    @pytest.mark.parametrize("size", [5, 200, 512, 635])
    def test_it_is_the_product(self, size):
        rows = torch.randn(2, size, 7, dtype=torch.float64)
        gram = rows @ rows.mT
        torch.testing.assert_close(symmetric_product(rows, rows), gram)
        torch.testing.assert_close(symmetric_product(gram, gram), gram @ gram)

    def test_of_large_matrices_half_is_never_computed(self):
        left, right = torch.randn(2, 512, 256, dtype=torch.float64)
        found = symmetric_product(left, right)
        assert torch.equal(found[128:, :128], found[:128, 128:].mT)
        assert not torch.allclose(found, left @ right.mT)  # which is not symmetric

    def test_derivatives_pass(self):
        rows = torch.randn(515, 3, dtype=torch.float64, requires_grad=True)
        (half,) = torch.autograd.grad(
            symmetric_product(rows, rows).square().sum(), rows
        )
        (whole,) = torch.autograd.grad((rows @ rows.mT).square().sum(), rows)
        torch.testing.assert_close(half, whole)
