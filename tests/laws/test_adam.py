"""What a rule with the nominal head is before it has learned anything: Adam."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from l2o import NeuralGraphOpt, Rule
from l2o.rule.config import NominalHeadConfig
from optimizees import ConvNet, load_fashion_mnist

STEP_SIZE = NominalHeadConfig().step_size


@pytest.fixture(scope="module")
def batches():
    """Thirty batches of real images, pooled to 7 x 7 pixels."""
    data = load_fashion_mnist("validation", source="embedded").pooled(7)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return [
        (data.images[indices], data.labels[indices])
        for indices in order[:480].split(16)
    ]


@pytest.fixture(params=["default-ff", "default", "pooled-shared", "deep-ff"])
def nominal(request, configs):
    config = configs[request.param]
    assert isinstance(config.head, NominalHeadConfig)
    # In wide layers an untrained rule with units is Adam at a lower rate.
    return replace(config, head=NominalHeadConfig(unit="one"))


def train(build_optimizer, batches, dtype):
    """Return the parameters after each step, as one row of numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = ConvNet(1, (4, 6), image_size=7).to(dtype)
    optimizer = build_optimizer(list(model.parameters()))
    path = []
    for images, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images.to(dtype)), labels).backward()
        optimizer.step()
        path.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return torch.stack(path)


def assert_same_path(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (expected[-1] - expected[0]).abs().max() > STEP_SIZE / 10


def test_an_untrained_rule_is_adam(nominal, batches):
    rule = Rule(nominal).double()
    found = train(lambda p: NeuralGraphOpt(p, rule=rule), batches, torch.float64)
    expected = train(
        lambda p: torch.optim.Adam(p, lr=STEP_SIZE), batches, torch.float64
    )
    assert len(found) == 30
    assert_same_path(found, expected)


def test_it_is_adamw_with_weight_decay_and_another_rate(nominal, batches):
    rule = Rule(nominal).double()
    found = train(
        lambda p: NeuralGraphOpt(p, lr=0.3, weight_decay=0.5, rule=rule),
        batches[:10],
        torch.float64,
    )
    expected = train(
        lambda p: torch.optim.AdamW(p, lr=0.3 * STEP_SIZE, weight_decay=0.5),
        batches[:10],
        torch.float64,
    )
    assert_same_path(found, expected)


def test_it_is_adam_in_float32_but_for_rounding(nominal, batches):
    """Adam divides by what may be all rounding, so the two drift apart: slowly here,
    within a hundred steps on larger networks.
    """
    rule = Rule(nominal)
    found = train(lambda p: NeuralGraphOpt(p, rule=rule), batches[:10], torch.float32)
    expected = train(
        lambda p: torch.optim.Adam(p, lr=STEP_SIZE), batches[:10], torch.float32
    )
    assert_same_path(found[:5], expected[:5])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


class TestTheLawCanFail:
    def test_with_another_last_layer(self, nominal, batches):
        rule = Rule(nominal).double()
        with torch.no_grad():
            rule.net.entry.last.bias.add_(1e-2)
        found = train(
            lambda p: NeuralGraphOpt(p, rule=rule), batches[:5], torch.float64
        )
        expected = train(
            lambda p: torch.optim.Adam(p, lr=STEP_SIZE), batches[:5], torch.float64
        )
        with pytest.raises(AssertionError):
            assert_same_path(found, expected)

    def test_with_decay_in_the_gradient(self, nominal, batches):
        rule = Rule(nominal).double()
        found = train(
            lambda p: NeuralGraphOpt(p, weight_decay=0.5, rule=rule),
            batches[:5],
            torch.float64,
        )
        expected = train(
            lambda p: torch.optim.Adam(p, lr=STEP_SIZE, weight_decay=0.5),
            batches[:5],
            torch.float64,
        )
        with pytest.raises(AssertionError):
            assert_same_path(found, expected)
