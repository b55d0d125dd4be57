"""Small networks and rules for the laws of the neuron-level rule."""

import functools

import pytest
import torch
import zoo
from torch import nn
from zoo.prepared import prepare

from l2o.nets import NeuronGNNConfig
from l2o.rule.neuron_config import NeuronRuleConfig
from l2o.rule.neuron_rule import NeuronRule

SMALL_NET = NeuronGNNConfig(width=8, message_width=4)


@functools.cache
def prepare_small(name):
    return prepare(zoo.SMALL[name])


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow) if specimen.is_slow else name
        for name, specimen in zoo.SMALL.items()
    ],
    scope="session",
)
def small(request):
    """Every small network of the zoo, traced; left unchanged."""
    return prepare_small(request.param)


@pytest.fixture(scope="session")
def small_named():
    """One of them by name."""
    return prepare_small


@pytest.fixture(scope="session")
def build_rule(random_rule):
    """Build a rule with random theta, in float64."""

    def build(*, kind=NeuronRule, seed=0, net=SMALL_NET, **settings):
        config = NeuronRuleConfig(net=net, **settings)
        return random_rule(config, kind=kind, seed=seed)

    return build


@pytest.fixture(scope="session")
def constant_rule():
    """Build a rule whose network says the same everywhere.

    Outputs of a matrix go by name; all others are zero.
    """
    names = ("scale", "row_power", "factored_power", "trust_power", "newest", "slow")

    def build(config, **outputs):
        rule = NeuronRule(config).double()
        with torch.no_grad():
            for name, value in outputs.items():
                rule.net.matrix_out.last.bias[names.index(name)] = value
        return rule

    return build


class Net(nn.Module):
    """A convolution, a norm and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.GroupNorm(1, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).tanh().mean((2, 3)))


@pytest.fixture
def convolutional():
    """A model in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().double()
