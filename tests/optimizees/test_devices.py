import pytest
import torch

from optimizees.devices import choose_device


def test_auto_is_cuda_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["", "pony", "cuda:999", "cpu0", "xpu"])
def test_a_device_that_is_not_there_is_one_clear_line(name):
    with pytest.raises(ValueError, match="Choose auto or cpu") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)
