import pytest
import torch

from optimizees.device import resolve_device


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that torch sees some GPUs."""

    def see(*, cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return see


@pytest.mark.parametrize(
    ("seen", "expected"),
    [({}, "cpu"), ({"cuda": 1}, "cuda"), ({"mps": True}, "mps")],
)
def test_auto_is_the_gpu_where_there_is_one(gpus, seen, expected):
    gpus(**seen)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_what_is_there_is_taken(gpus, name):
    gpus(cuda=2, mps=True)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:2", "mps", "cpu:1"])
def test_what_is_not_there_is_refused(gpus, name):
    gpus(cuda=2 if ":" in name else 0)
    with pytest.raises(ValueError, match=r"on this machine; got .*Choose auto or cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "xla", "cuda:-1"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(ValueError, match=r"got .*Choose auto"):
        resolve_device(name)
