import pytest
import torch

from benchmarks.step_cost.small_fc import SmallFC


def make(shape, grad=None):
    param = torch.nn.Parameter(torch.randn(shape))
    param.grad = torch.randn(shape) if grad is None else grad
    torch.manual_seed(0)
    return param, SmallFC([param])


def read_by_network(optimizer):
    """Return what the network reads in one step, `[entry, 39]`."""
    seen = []
    optimizer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    optimizer.step()
    return seen[0][0]


def test_a_large_matrix_has_four_floats_of_state_an_entry():
    param, optimizer = make((300, 200))
    optimizer.step()
    sizes = {
        key: value.numel() / param.numel()
        for key, value in optimizer.state[param].items()
    }
    assert sizes["momenta"] == 3
    assert sizes["second"] == 1
    assert sizes["row"] + sizes["column"] == pytest.approx(3 / 300 + 3 / 200)


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (4, 3, 2, 2)])
def test_every_shape_gets_a_finite_update(shape):
    param, optimizer = make(shape)
    before = param.detach().clone()
    inputs = read_by_network(optimizer)
    assert inputs.shape == (param.numel(), 39)
    optimizer.step()
    assert param.isfinite().all()
    assert (param != before).all()


def test_features_do_not_change_when_the_loss_is_scaled():
    grad = 1000 * (torch.rand(6, 5) + 1)  # far above every epsilon
    first = read_by_network(make((6, 5), grad)[1])
    second = read_by_network(make((6, 5), 10 * grad)[1])
    kept = [0, *range(2, 5), *range(6, 9)]  # gradient, momenta, and over their root
    torch.testing.assert_close(first[:, kept], second[:, kept], rtol=1e-3, atol=1e-3)


def test_a_factored_moment_of_rank_one_is_exact():
    grad = torch.rand(6, 1).add(1) * torch.rand(1, 5).add(1)
    features = read_by_network(make((6, 5), grad)[1])
    factored = features[:, 10:13]
    torch.testing.assert_close(factored, torch.ones(30, 3), rtol=1e-4, atol=1e-4)


def test_the_closure_is_called():
    param, optimizer = make((2,))
    assert optimizer.step(lambda: 3.0) == 3.0
    assert param.isfinite().all()
