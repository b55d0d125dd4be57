"""Tests on a GPU; `--accelerator cpu` rehearses them where there is none."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from optimizees.devices import choose_device

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def gpu(request, monkeypatch):
    """The GPU, with exact float32; skips where there is none."""
    try:
        device = choose_device(request.config.getoption("--accelerator"))
    except ValueError:
        pytest.skip("there is no GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return device


@pytest.fixture
def no_waits(gpu):
    """Make whatever waits for the GPU an error, in a `with`."""

    class Watched:
        def __enter__(self):
            torch.cuda.set_sync_debug_mode("error")

        def __exit__(self, *_):
            torch.cuda.set_sync_debug_mode("default")

    return Watched() if gpu.type == "cuda" else nullcontext()
