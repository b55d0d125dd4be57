"""Every network of the zoo, traced: what is true of one graph is checked on all."""

import functools
import importlib.util

import pytest
import zoo
from zoo.prepared import prepare


@functools.cache
def prepare_small(name):
    return prepare(zoo.SMALL[name], with_snapshots=True)


SMALL = [
    pytest.param(name, marks=pytest.mark.slow) if specimen.is_slow else name
    for name, specimen in zoo.SMALL.items()
]


@pytest.fixture(params=SMALL, scope="session")
def small(request):
    """Every small network; shared by the tests, so left unchanged."""
    return prepare_small(request.param)


@pytest.fixture(params=zoo.FULL_SIZE, scope="session")
def full_size(request):
    """Every model of another library, one at a time in memory."""
    for library in ("torchvision", "timm", "transformers"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library}: run `make zoo`")
    return prepare(zoo.FULL_SIZE[request.param])


@pytest.fixture(scope="session")
def small_named():
    """One small network by name."""
    return prepare_small
