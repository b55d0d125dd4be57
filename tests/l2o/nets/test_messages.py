"""Messages that are reduced a few at a time, against all at once by autograd."""

import pytest
import torch

from l2o.nets import messages as messages_module
from l2o.nets.messages import reduce_in_cache


@pytest.mark.parametrize("at_a_time", [1, 60, 10**6])
@pytest.mark.parametrize("with_ties", [False, True])
def test_values_and_gradients_are_autograds(at_a_time, with_ties, monkeypatch):
    monkeypatch.setattr(messages_module, "CACHED_NUMBERS", at_a_time)
    generator = torch.Generator().manual_seed(0)
    shapes = (7, 5, 4, 6), (7, 5, 3), (7, 4, 3)
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    ]
    if with_ties:  # messages that are equal: several are extreme
        inputs = [values.round() for values in inputs]
    inputs = [values.requires_grad_() for values in inputs]
    modulation, receive, send = inputs
    scale, shift = modulation.chunk(2, dim=-1)
    messages = shift + scale * (receive[:, :, None] + send[:, None])
    expected = [
        torch.cat([messages.sum(2), messages.square().sum(2)], dim=-1),
        torch.cat([messages.amin(2), -messages.amax(2)], dim=-1),
    ]
    found = reduce_in_cache(*inputs)
    coming = [torch.randn_like(value) for value in expected]
    for pair in (
        (found, expected),
        (
            torch.autograd.grad(found, inputs, coming),
            torch.autograd.grad(expected, inputs, coming),
        ),
    ):
        for own, wanted in zip(*pair, strict=True):
            torch.testing.assert_close(own, wanted, rtol=1e-12, atol=1e-12)


def test_a_second_derivative_is_an_error():
    inputs = [torch.ones(1, 2, 2, 2), torch.ones(1, 2, 1), torch.ones(1, 2, 1)]
    inputs = [values.requires_grad_() for values in inputs]
    sums, _ = reduce_in_cache(*inputs)
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        torch.autograd.grad(sums.square().sum(), inputs, create_graph=True)
