"""Operations on lists of tensors give what loops over them give."""

import math

import pytest
import torch

from l2o import SafetyConfig, neural_graph
from l2o.nets.fast_ops import in_plain_eager
from l2o.optim import in_place
from l2o.optim.in_place import IN_PLACE, InPlaceMemory
from l2o.rule import step, tensor_lists
from l2o.rule.step import complete_state, take_step

MODULES = (tensor_lists, step, in_place)


@pytest.fixture
def as_lists(monkeypatch):
    """Let a CPU compute as an accelerator does."""

    def begin():
        for module in MODULES:
            monkeypatch.setattr(module, "uses_lists", lambda tensors: in_plain_eager())
        monkeypatch.setattr(InPlaceMemory, "may_ask", lambda self, device: False)

    return begin


def tensors(values):
    generator = torch.Generator().manual_seed(0)
    found = [
        torch.randn(2 + size, size, generator=generator).abs() for size in range(1, 9)
    ]
    found[2][0, 1], found[5][3, 2] = values
    return found


VALUES = [(1.0, 2.0), (math.inf, 1.0), (math.nan, 1.0), (1e30, math.nan)]
NAMES = ("peaks", "norms", "sums")


@pytest.mark.parametrize("values", VALUES)
@torch.no_grad()
def test_reductions(as_lists, values):

    def reduced(name):
        return tensor_lists.joined(getattr(tensor_lists, name)(tensors(values)))

    expected = [reduced(name) for name in NAMES]
    as_lists()
    for name, numbers in zip(NAMES, expected, strict=True):
        torch.testing.assert_close(reduced(name), numbers, equal_nan=True)


@pytest.mark.parametrize("values", VALUES)
@torch.no_grad()
def test_products(as_lists, values):
    factors = torch.arange(1.0, 9.0)
    expected = tensor_lists.scaled(tensors(values), factors)
    as_lists()
    found = tensor_lists.scaled(tensors(values), factors)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_zeros(as_lists, holds, dtype):
    given = [item.to(dtype) for item in tensors((math.inf, math.nan))]
    expected = tensor_lists.zeros_unless(torch.tensor(holds), given)
    as_lists()
    found = tensor_lists.zeros_unless(torch.tensor(holds), given)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=0)


SAFETY = SafetyConfig(max_update=1.5, max_gradient=1e3, max_growth=1.2)
"""Close enough that updates are clipped, and gradients scaled."""


def walk(rule, mlp, all_grads):
    """Return the parameters after every step."""
    graph, state, found = neural_graph(mlp.params), {}, []
    params = {name: param.clone() for name, param in mlp.params.items()}
    for grads in all_grads:
        start = complete_state(rule, params, state)
        _, state, report = take_step(
            rule, graph, params, grads, start, memory=IN_PLACE, safety=SAFETY
        )
        assert report is not None
        found.append({name: param.clone() for name, param in params.items()})
        found.append(report.update_sizes)
    return found


@pytest.mark.parametrize("harm", [1.0, 1e6, math.inf, math.nan])
@torch.no_grad()
def test_a_guarded_step(as_lists, random_rule, configs, mlp, random_grads, harm):
    rule = random_rule(configs["deep-ff"])
    all_grads = random_grads(mlp.params, steps=14)
    name = next(iter(mlp.params))
    all_grads[12] = {**all_grads[12], name: all_grads[12][name] * harm}
    expected = walk(rule, mlp, all_grads)
    as_lists()
    found = walk(rule, mlp, all_grads)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-9, atol=1e-12)
    moved = [
        not torch.equal(found[2 * number][name], found[2 * number - 2][name])
        for number in range(1, 14)
    ]
    assert moved == [number != 12 or math.isfinite(harm) for number in range(1, 14)]
