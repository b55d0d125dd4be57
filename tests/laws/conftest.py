"""One list of rules and one of networks: what is true of all is checked on all."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from l2o import PRESETS, RuleConfig, learned_step, neural_graph
from l2o.nets import (
    FeedForwardConfig,
    LSTMConfig,
    NFNConfig,
    NGGNNConfig,
    NGTConfig,
)
from l2o.rule.config import (
    LogSignFeaturesConfig,
    NominalHeadConfig,
    PaperHeadConfig,
    ScaleFreeFeaturesConfig,
)
from optimizees import MLP, ConvNet

SMALL_HEAD = FeedForwardConfig(width=8, layers=2)

RULES = {
    **PRESETS,
    # Small, and between them every branch of a configuration with every other.
    "narrow-paper": RuleConfig(
        net=NGGNNConfig(
            width=8,
            layers=2,
            kernel=5,
            directions="shared",
            residual=False,
            head=FeedForwardConfig(width=8, layers=2, activation="relu"),
        ),
        features=LogSignFeaturesConfig(),
        head=PaperHeadConfig(),
    ),
    "cells-own": RuleConfig(
        net=NGGNNConfig(width=8, layers=3, kernel=4, residual=False, head=SMALL_HEAD),
        features=ScaleFreeFeaturesConfig(),
        head=PaperHeadConfig(),
    ),
    "pooled-shared": RuleConfig(
        net=NGGNNConfig(width=6, layers=1, directions="shared", head=SMALL_HEAD),
        features=LogSignFeaturesConfig(),
        head=NominalHeadConfig(full_fan_in=4.0),
    ),
    "deep-ff": RuleConfig(
        net=FeedForwardConfig(width=8, layers=4, activation="relu"),
        features=LogSignFeaturesConfig(),
        head=NominalHeadConfig(unit="one"),
    ),
    "ng-t": RuleConfig(
        net=NGTConfig(width=8, heads=2, head=SMALL_HEAD),
        head=NominalHeadConfig(full_fan_in=4.0),
    ),
    "lstm": RuleConfig(net=LSTMConfig(width=8, head=SMALL_HEAD)),
    "nfn": RuleConfig(net=NFNConfig(width=8, layers=1, head=SMALL_HEAD)),
}
"""Every rule; a new one joins here and inherits every law."""

SMALL = (
    *("narrow-paper", "cells-own", "pooled-shared", "deep-ff"),
    *("ng-t", "lstm", "nfn"),
)

NETWORKS = {
    f"{family}-{inputs}": (family, inputs)
    for family, numbers in (("mlp", (1, 3)), ("pooled", (2, 3)), ("flattened", (1, 2)))
    for inputs in numbers
}
"""Small networks of each family, with different numbers of inputs."""

_OF_FULL_SIZE = {"network": "flattened-2", "general": "residual"}
"""The network that full-size presets meet; the small rules meet all networks."""

Optimizee = namedtuple("Optimizee", "model inputs layers graph params")
"""A network that is trained, an input for it, and its weights' names without
`.weight`, in order."""


def pytest_collection_modifyitems(items):
    """Leave out full-size presets on all networks but one."""
    items[:] = [item for item in items if not is_repetition(item)]


def is_repetition(item):
    """Return whether a test shows on a full-size preset what a small rule shows."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return params.get("config") in PRESETS and any(
        params.get(name, network) != network for name, network in _OF_FULL_SIZE.items()
    )


@pytest.fixture(params=RULES, scope="session")
def config(request):
    """Every rule's configuration."""
    return RULES[request.param]


@pytest.fixture(params=SMALL, scope="session")
def small_config(request):
    """The small ones, which still take every branch."""
    return RULES[request.param]


@pytest.fixture(scope="session")
def configs():
    """The list itself, by name."""
    return RULES


@pytest.fixture(scope="session")
def rule(config, random_rule):
    """Every rule, with random theta; shared by the tests, so left unchanged."""
    return random_rule(config)


@pytest.fixture(scope="session")
def small_rule(small_config, random_rule):
    return random_rule(small_config)


@pytest.fixture(scope="session")
def build_network():
    """Build one small network of a family, smooth and in float64."""

    def build(family, inputs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            if family == "mlp":
                model = MLP((inputs, 6, 5, 4), activation="tanh")
                images = torch.randn(7, inputs)
            else:
                head = "pool" if family == "pooled" else "flatten"
                # The flattened map has 2 x 2 pixels: four cells an edge.
                model = ConvNet(
                    inputs,
                    (6, 5),
                    num_classes=4,
                    activation="tanh",
                    head=head,
                    image_size=6,
                )
                images = torch.randn(7, inputs, 6, 6)
        model, images = model.double(), images.double()
        params = {name: param.detach() for name, param in model.named_parameters()}
        layers = [name[:-7] for name in params if name.endswith(".weight")]
        return Optimizee(model, images, layers, neural_graph(model), params)

    return build


@pytest.fixture(params=NETWORKS, scope="session")
def network(request, build_network):
    """Every network: MLP, CNN with pooled and with flattened head."""
    return build_network(*NETWORKS[request.param])


@pytest.fixture(scope="session")
def mlp(build_network):
    return build_network("mlp", 3)


@pytest.fixture(scope="session")
def cnn(build_network):
    return build_network("pooled", 3)


@pytest.fixture(scope="session")
def random_grads():
    """Draw gradients for some steps, of a size that changes from step to step."""

    def draw(params, steps=3, seed=7):
        generator = torch.Generator().manual_seed(seed)
        return [
            {
                name: 10.0**-step
                * torch.randn(param.shape, generator=generator, dtype=param.dtype)
                for name, param in params.items()
            }
            for step in range(steps)
        ]

    return draw


@pytest.fixture(scope="session")
def last_update():
    """Take steps along given gradients; return what the last one adds."""

    def take(rule, graph, params, all_grads):
        state, before = {}, params
        with torch.no_grad():
            for grads in all_grads:
                before = params
                params, state = learned_step(rule, graph, params, grads, state)
        return {name: params[name] - before[name] for name in params}

    return take


@pytest.fixture(scope="session")
def assert_updates_agree():
    """Compare updates, each tensor relative to its own size."""

    def check(found, expected, *, tolerance=1e-9):
        assert found.keys() == expected.keys()
        wrong = []
        for name, tensor in expected.items():
            size = float(tensor.abs().max())
            assert 0 < size < float("inf"), f"{name}: a zero update shows nothing"
            error = float((found[name] - tensor).abs().max()) / size
            if not error <= tolerance:
                wrong.append(f"{name} is off by {error:.1e} of its size")
        assert not wrong, "; ".join(wrong)

    return check


@pytest.fixture(scope="session")
def sequential():
    """Build a float64 chain of layers with seeded weights."""

    def build(*layers, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(*(layer() for layer in layers)).double()

    return build
