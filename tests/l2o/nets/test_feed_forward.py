from types import SimpleNamespace

import pytest
import torch

from l2o import neural_graph
from l2o.graph.tiles import EdgeTile, find_tiles
from l2o.nets import (
    FeedForwardConfig,
    LSTMConfig,
    NetSizes,
    NFNConfig,
    NGGNNConfig,
    NGTConfig,
    build_net,
)
from l2o.nets.feed_forward import FeedForward, FeedForwardNet
from l2o.nets.gnn import NGGNNNet
from l2o.nets.lstm import LSTMNet
from l2o.nets.nfn import NFNNet
from l2o.nets.ng_t import NGTNet
from l2o.nets.ng_t_released import ReleasedNGTNet

SIZES = NetSizes(num_features=4, num_context=3, num_outputs=6)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("layers", [1, 3])
def test_shared_inputs_are_as_if_copied_to_every_entry(activation, layers, generator):
    config = FeedForwardConfig(width=5, layers=layers, activation=activation)
    net = FeedForward(config, SIZES, num_structure=2).double()
    features, context, structure = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in [(6, 7, 4), (3,), (6, 1, 2)]
    )
    inputs = torch.cat(
        [features, context.expand(6, 7, 3), structure.expand(6, 7, 2)], dim=-1
    )
    weight = torch.cat(
        [net.first.weight, net.from_context.weight, net.from_structure.weight], dim=1
    )
    pointwise = torch.relu if activation == "relu" else torch.nn.functional.silu
    hidden = pointwise(inputs @ weight.T + net.first.bias)
    for layer in net.hidden:
        hidden = pointwise(layer(hidden))
    expected = net.last(hidden)
    found = net(features, context, structure)
    assert found.shape == (6, 7, 6)
    assert len(net.hidden) == layers - 1
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_all_its_inputs_are_initialised_as_one_layer(generator):
    config = FeedForwardConfig(width=500)
    net = FeedForward(config, SIZES, num_structure=2)
    for layer in (net.first, net.from_context, net.from_structure):
        assert 0.32 < layer.weight.abs().max() <= 1 / 3


@pytest.mark.parametrize(
    ("init", "low", "high"), [("torch", 0, 0.005), ("kaiming", 0.1, 1)]
)
def test_depth_fades_what_the_inputs_say_unless_it_starts_right(
    init, low, high, generator
):
    config = FeedForwardConfig(width=64, layers=8, activation="relu", init=init)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, shallow = (
            FeedForward(item, NetSizes(num_features=14, num_outputs=2))
            for item in (config, FeedForwardConfig(width=64, layers=1))
        )
    features = torch.randn(1000, 1, 14, generator=generator)
    deviation = net(features, features).std(dim=0).mean()
    share = deviation / shallow(features, features).std(dim=0).mean()
    assert low < share < high


def test_the_config_picks_the_network():
    for config, kind in [
        (FeedForwardConfig(), FeedForwardNet),
        (NGGNNConfig(), NGGNNNet),
        (NGTConfig(), NGTNet),
        (NGTConfig(readout="released"), ReleasedNGTNet),
        (LSTMConfig(), LSTMNet),
        (NFNConfig(), NFNNet),
    ]:
        net = build_net(config, NetSizes(num_features=4, num_outputs=2))
        assert isinstance(net, kind)


@pytest.mark.parametrize(
    "config",
    [FeedForwardConfig(), NGGNNConfig(), NGTConfig(), LSTMConfig(), NFNConfig()],
)
def test_the_last_layer_can_be_made_zero(config, generator):
    net = build_net(config, NetSizes(num_features=4, num_context=3, num_outputs=5))
    graph, written = neural_graph(torch.nn.Linear(3, 2)), []
    entries = SimpleNamespace(
        tiles=find_tiles(graph, torch.device("cpu"), None),
        memory_limit=None,
        read=lambda tile: torch.randn(
            (*tile.shape, 1, 4) if isinstance(tile, EdgeTile) else (2, 1, 4),
            generator=generator,
        ),
        write=lambda tile, outputs: written.append(outputs),
    )
    net(graph, entries, torch.ones(2, 3))
    assert [item.shape for item in written] == [(1, 2, 3, 1, 5), (2, 1, 5)]
    assert all(item.any() for item in written)
    net.entry.zero_last()
    written.clear()
    net(graph, entries, torch.ones(2, 3))
    assert not any(item.any() for item in written)
