"""Chains, and how renumbering their neurons moves a batch of them."""

import pytest
import torch

from l2o import neural_graph
from l2o.graph import permute_parameters
from l2o.nets.chain import find_chain

SHAPES = {
    "mlp": {"a": (4, 3), "a.bias": (4,), "b": (5, 4), "b.bias": (5,), "c": (3, 5)},
    "cnn": {"a": (4, 3, 3, 3), "a.bias": (4,), "b": (5, 4, 2, 2), "c": (3, 5)},
    "deep": {"a": (4, 3), "b": (4, 4), "b.bias": (4,), "c": (5, 4), "d": (3, 5)},
    "flattened": {"a": (4, 3, 3, 3), "a.bias": (4,), "b": (3, 16), "b.bias": (3,)},
    "single": {"a": (3, 4), "a.bias": (3,)},
}


@pytest.fixture(params=SHAPES, scope="session")
def chain(request):
    params = {name: torch.zeros(shape) for name, shape in SHAPES[request.param].items()}
    return find_chain(neural_graph(params))


@pytest.fixture(scope="session")
def random_batch():
    """Draw four networks of a chain."""

    def draw(chain, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(4, *shape, generator=generator, dtype=torch.float64)
            for name, shape in chain.graph.shapes.items()
        }

    return draw


@pytest.fixture(scope="session")
def renumber():
    """Renumber the neurons of some groups, in every network of a batch alike."""

    def move(chain, params, groups):
        generator = torch.Generator().manual_seed(1)
        orders = []
        for number, group in enumerate(chain.graph.groups):
            order = torch.arange(group.size)
            while number in groups and bool((order == order.sort().values).all()):
                order = torch.randperm(group.size, generator=generator)
            orders.append(order)
        last = {name: values.movedim(0, -1) for name, values in params.items()}
        found = permute_parameters(chain.graph, orders, last)
        return {name: values.movedim(-1, 0) for name, values in found.items()}

    return move


@pytest.fixture(scope="session")
def distance():
    """Return how far two sets of tensors are apart, relative to their size."""

    def measure(found, expected):
        if torch.is_tensor(found):
            found, expected = {"": found}, {"": expected}
        assert found.keys() == expected.keys()
        found = {name: values.detach() for name, values in found.items()}
        expected = {name: values.detach() for name, values in expected.items()}
        size = max(float(values.abs().max()) for values in expected.values())
        assert 0 < size < float("inf")
        errors = [(found[name] - expected[name]).abs().max() for name in expected]
        return float(max(errors)) / size

    return measure
