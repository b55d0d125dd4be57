"""Networks by configuration: the library's own, and any from outside it."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from l2o import Rule, neural_graph
from l2o.nets import (
    BuildsNet,
    FeedForwardConfig,
    LSTMConfig,
    Net,
    NetSizes,
    NFNConfig,
    NGGNNConfig,
    NGTConfig,
    build_net,
)

SIZES = NetSizes(num_features=4, num_context=3, num_outputs=2)
CONFIGS = [
    FeedForwardConfig(width=6),
    NGGNNConfig(width=6),
    NGGNNConfig(width=6, readout="released"),
    NGTConfig(width=8),
    NGTConfig(width=8, readout="released"),
    LSTMConfig(width=6),
    NFNConfig(width=6),
]


class LinearNet(nn.Module):
    """A network from outside the library: one linear map per entry."""

    def __init__(self, sizes):
        super().__init__()
        self.last = nn.Linear(sizes.num_features, sizes.num_outputs)

    def check(self, graph):
        pass

    def forward(self, graph, entries, context):
        for tile in entries.tiles.owned:
            entries.write(tile, self.last(entries.read(tile)))

    def zero_last(self):
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)


@dataclass(frozen=True)
class LinearConfig:
    kind: str = "linear"

    def build(self, sizes):
        return LinearNet(sizes)


@dataclass(frozen=True)
class BrokenConfig:
    kind: str = "broken"

    def build(self, sizes):
        return nn.Linear(sizes.num_features, sizes.num_outputs)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_every_network_of_the_library_is_a_net(config):
    net = build_net(config, SIZES)
    assert isinstance(net, Net)
    net.zero_last()
    assert not net.entry.last.weight.any()
    assert not net.entry.last.bias.any()


def test_a_configuration_from_outside_builds_its_network():
    assert isinstance(LinearConfig(), BuildsNet)
    net = build_net(LinearConfig(), SIZES)
    assert isinstance(net, LinearNet)
    assert net.last.weight.shape == (2, 4)


def test_a_module_from_outside_is_taken_as_it_is():
    net = LinearNet(SIZES)
    assert build_net(net, SIZES) is net


@pytest.mark.parametrize(
    "config", [BrokenConfig(), nn.Linear(4, 2)], ids=["", "module"]
)
def test_what_is_no_network_is_refused(config):
    with pytest.raises(TypeError, match=r"See l2o.nets.Net"):
        build_net(config, SIZES)


def test_a_rule_takes_a_step_with_it():
    rule, model = Rule().double(), nn.Linear(3, 2).double()
    rule.net = build_net(LinearConfig(), rule.net_sizes).double()
    params = {name: value.detach() for name, value in model.named_parameters()}
    state = rule.advance(rule.init_state(params), params)
    updates = rule(neural_graph(model), params, params, state)
    assert all(bool(update.isfinite().all()) for update in updates.values())
    with torch.no_grad():
        rule.net.last.bias.add_(1.0)
    others = rule(neural_graph(model), params, params, state)
    assert not torch.equal(others["weight"], updates["weight"])
