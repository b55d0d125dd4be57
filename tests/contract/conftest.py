"""A working script in fixtures: a model, its batches, a loop."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from l2o import RuleConfig
from l2o.nets import FeedForwardConfig, NGGNNConfig


@pytest.fixture(scope="session")
def rule(random_rule):
    """A small graph network with random weights, in float32."""
    head = FeedForwardConfig(width=6, layers=1)
    net = NGGNNConfig(width=6, layers=2, head=head)
    return random_rule(RuleConfig(net=net), dtype=torch.float32)


@pytest.fixture
def build_model():
    """Build a small CNN, the same each time."""

    def build(seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)
            )

    return build


@pytest.fixture
def model(build_model):
    return build_model()


@pytest.fixture(scope="session")
def loss_of():
    """Compute the loss of a model on its n-th batch."""

    def compute(model, number=0):
        param = next(model.parameters())
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(4, 1, 4, 4, generator=generator)
        labels = torch.randint(4, (4,), generator=generator)
        outputs = model(images.to(param.device, param.dtype))
        return nn.functional.cross_entropy(outputs, labels.to(param.device))

    return compute


@pytest.fixture(scope="session")
def train(loss_of):
    """Take steps on the batches that `numbers` names; call `after` behind each."""

    def run(model, optimizer, numbers, after=lambda: None):
        for number in numbers:
            optimizer.zero_grad()
            loss_of(model, number).backward()
            optimizer.step()
            after()

    return run


@pytest.fixture(scope="session")
def assert_same():
    """Compare the parameters of two models bit for bit."""

    def check(model, other):
        pairs = zip(model.parameters(), other.parameters(), strict=True)
        for param, expected in pairs:
            torch.testing.assert_close(param, expected, rtol=0, atol=0)

    return check


def _through_pickle(item):
    return pickle.loads(pickle.dumps(item))


@pytest.fixture(params=[copy.deepcopy, _through_pickle], ids=["deepcopy", "pickle"])
def duplicate(request):
    return request.param


@pytest.fixture(scope="session")
def through_a_file():
    """Save and load, as a careful user would: no code in the file."""

    def send(values):
        buffer = io.BytesIO()
        torch.save(values, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    return send
