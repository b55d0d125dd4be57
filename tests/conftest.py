"""What the tests of every room share."""

import warnings
from importlib.util import find_spec

import pytest
import torch
from zoo.third_party import import_torchvision

from l2o import Rule

# The tensors of the tests are small: threads would only wait for each other, most of
# all beside another job.
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--accelerator",
        default="cuda",
        help="device of the tests in tests/gpu; cpu rehearses them without a GPU",
    )


@pytest.fixture(scope="session")
def random_rule():
    """Build a rule whose theta is random everywhere: no output is zero by design.

    Matrices keep the size of what passes through them, so that deep rules neither
    die out nor overflow.
    """

    def build(config, *, dtype=torch.float64, seed=0, kind=Rule):
        rule = kind(config).to(dtype)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in rule.named_parameters():
                noise = torch.randn(
                    weight.shape, generator=generator, dtype=torch.float64
                )
                if weight.ndim > 1:
                    noise = noise / weight.shape[1] ** 0.5
                elif name.endswith("norm.weight"):
                    noise = 1 + 0.3 * noise
                else:
                    noise = 0.3 * noise
                weight.copy_(noise)
        return rule

    return build


@pytest.fixture(scope="session")
def higher():
    """Import higher, of whose source Python warns when it compiles it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return pytest.importorskip("higher", reason="needs l2o[higher]")


@pytest.fixture(scope="session")
def lightning():
    """Import Lightning, which imports torchvision where it is installed."""
    if find_spec("torchvision") is not None:
        import_torchvision("torchvision")
    return pytest.importorskip("pytorch_lightning", reason="needs l2o[ecosystem]")


@pytest.fixture
def accelerate():
    """Import accelerate; what it keeps in its classes ends with the test."""
    package = pytest.importorskip("accelerate", reason="needs l2o[ecosystem]")

    def forget():
        package.state.AcceleratorState._reset_state(reset_partial_state=True)
        package.state.GradientState._reset_state()

    forget()
    yield package
    forget()
