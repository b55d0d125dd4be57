"""The paper's graphs of layered networks, checked on real networks with skips."""

import pytest
import torch
from torch.nn import functional as F

from l2o.companion import layered_graph
from l2o.graph import permute_parameters, random_permutations

SHAPES = {
    "0.weight": (4, 3, 3, 3),
    "0.bias": (4,),
    "1.weight": (6, 4, 1, 3),
    "1.bias": (6,),
    "2.weight": (5, 6, 3, 1),
    "2.bias": (5,),
    "3.weight": (4, 5, 3, 3),
    "3.bias": (4,),
    "head.weight": (2, 4),
    "head.bias": (2,),
}
SKIPS = (None, None, 0, 1)


def run(params, images):
    """A CNN with the skips of SKIPS; what is added comes before the activation."""
    maps, seen = images, []
    for layer, skip in enumerate(SKIPS):
        weight = params[f"{layer}.weight"]
        padding = weight.shape[2] // 2, weight.shape[3] // 2
        maps = F.conv2d(maps, weight, params[f"{layer}.bias"], padding=padding)
        if skip is not None:
            both = min(maps.shape[1], seen[skip].shape[1])
            maps = torch.cat([maps[:, :both] + seen[skip][:, :both], maps[:, both:]], 1)
        maps = torch.tanh(maps)
        seen.append(maps)
    pooled = maps.mean((2, 3))
    return pooled @ params["head.weight"].T + params["head.bias"]


def test_its_symmetries_leave_the_network_as_it_is():
    graph = layered_graph(SHAPES, activations=("tanh",) * 4, skips=SKIPS)
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }
    images = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    before = run(params, images)
    moved = 0
    for _ in range(5):
        orders = random_permutations(graph, generator)
        moved += sum(int((order.diff() != 1).any()) for order in orders)
        after = run(permute_parameters(graph, orders, params), images)
        torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert moved > 5
    orders = [torch.arange(group.size) for group in graph.groups]
    orders[1] = orders[1].flip(0)  # without the layer that it is added to
    after = run(permute_parameters(graph, orders, params), images)
    assert (after - before).abs().max() > 1e-3


def test_every_hidden_neuron_is_in_one_symmetry():
    graph = layered_graph(SHAPES, skips=SKIPS)
    members = [
        (one.group, number)
        for symmetry in graph.symmetries
        for one in symmetry.members
        for number in one.index
    ]
    hidden = [
        (layer, n) for layer in range(1, 5) for n in range(graph.groups[layer].size)
    ]
    assert sorted(members) == hidden


def test_it_is_kept():
    assert layered_graph(SHAPES, skips=SKIPS) is layered_graph(SHAPES, skips=SKIPS)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"activations": ("relu",)}, "Leave the output layer out"),
        ({"skips": (None,) * 5}, "Leave the output layer out"),
        ({"activations": ("relu", "relu", "relu", "wobble")}, "Name another"),
        ({"skips": (None, None, 2, None)}, "Count hidden layers from 0"),
        ({"skips": (None, -1, None, None)}, "Count hidden layers from 0"),
    ],
)
def test_settings_that_do_not_fit(given, advice):
    with pytest.raises(ValueError, match=advice):
        layered_graph(SHAPES, **given)


def test_shapes_that_are_no_chain():
    with pytest.raises(ValueError, match="trace the network"):
        layered_graph({"a": (4, 3), "b": (5, 9)})
