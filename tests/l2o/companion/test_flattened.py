"""Virtual layers: a neuron for each channel at each place of a flattened map."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.companion import (
    NetworkClassifier,
    infer_config,
    stack_networks,
    virtual_layers,
)
from l2o.graph import from_blocks, permute_parameters, random_permutations, to_blocks


class PlaceByPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6, 2)

    def forward(self, images):
        return self.head(self.conv(images).relu().movedim(1, -1).flatten(1))


def channel_by_channel():
    conv, head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6, 2)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head)


MODELS = {"channels first": channel_by_channel, "places first": PlaceByPlace}


@pytest.fixture(params=MODELS)
def case(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().double()
    graph = virtual_layers(neural_graph(model, torch.zeros(2, 3, 4, 5).double()))
    return graph, {name: value.detach() for name, value in model.named_parameters()}


def reader(graph, **changes):
    torch.manual_seed(0)
    config = infer_config(graph, width=8, layers=3)
    config = replace(config, inputs=replace(config.inputs, **changes))
    return NetworkClassifier(config, num_classes=2).double().eval()


def read(network, graph, params):
    return network(stack_networks(graph, {n: v[None] for n, v in params.items()}))


def head_of(params):
    return next(name for name, value in params.items() if value.ndim == 2)


def test_every_edge_has_one_entry_and_none_is_lost(case):
    graph, params = case
    assert [group.size for group in graph.groups] == [3, 4, 24, 2]
    assert [group.role for group in graph.groups][-1] == "output"
    assert {block.cells for block in graph.blocks} == {(3, 3), ()}
    back = from_blocks(graph, to_blocks(graph, params))
    assert all(torch.equal(back[name], value) for name, value in params.items())
    assert virtual_layers(graph).groups == graph.groups


def test_edges_join_a_channel_with_its_places(case):
    graph, params = case
    name = head_of(params)
    (block,) = [block for block in graph.blocks if block.parameter == name]
    weight = torch.arange(48.0).view(2, 24)
    entries = to_blocks(graph, {**params, name: weight}).edges[
        graph.blocks.index(block)
    ]
    assert torch.equal(entries.flatten(), weight.flatten())
    is_inner = dict(graph.groups[2].operations[0].settings)["is_inner"]
    channels = torch.empty(24, dtype=torch.int64)
    for tie in graph.ties:
        channels[torch.tensor(tuple(tie.target.index))] = torch.arange(4)
    numbers = torch.arange(24)
    assert torch.equal(channels, numbers // 6 if is_inner else numbers % 4)


def test_channels_stay_exchangeable(case):
    graph, params = case
    orders = random_permutations(graph, torch.Generator().manual_seed(1))
    moved = permute_parameters(graph, orders, params)
    name = head_of(params)
    assert not torch.equal(moved[name], params[name])
    network = reader(graph)
    found, expected = (read(network, graph, own) for own in (moved, params))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_places_are_told_apart(case):
    graph, params = case
    name, is_inner = head_of(params), graph.groups[2].operations[0]
    shape = (2, 4, 6) if dict(is_inner.settings)["is_inner"] else (2, 6, 4)
    axis = shape.index(6)
    mixed = params[name].view(shape).roll(1, axis).flatten(1)
    network = reader(graph)
    found, expected = (
        read(network, graph, {**params, name: value}) for value in (mixed, params[name])
    )
    gap = (found - expected).abs().max()
    with torch.no_grad():
        network.encoder.inputs.places.zero_()  # the embedding is what tells them apart
    found, expected = (
        read(network, graph, {**params, name: value}) for value in (mixed, params[name])
    )
    assert gap > 1e6 * (found - expected).abs().max()


def test_places_without_a_row_are_refused(case):
    graph, params = case
    with pytest.raises(ValueError, match=r"got 6 in .*Raise num_places"):
        read(reader(graph, num_places=5), graph, params)
    with pytest.raises(ValueError, match="num_places=0"):
        read(reader(graph, num_places=0), graph, params)


def test_other_graphs_stay_as_they_are():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = neural_graph(model, torch.zeros(2, 3))
    assert virtual_layers(graph).groups == graph.groups
    assert infer_config(graph).inputs.num_places == 0
