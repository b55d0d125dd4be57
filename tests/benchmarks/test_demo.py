"""`l2o demo`."""

import sys

import pytest
import torch

from l2o.cli import main


def test_demo_draws_its_curves(tmp_path, capsys, small_optimizers):
    path = tmp_path / "demo.png"
    arguments = ["demo", "--seeds", "2", "--steps", "2", "--threads", "1"]
    assert main([*arguments, "--data", "embedded", "--out", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Training data: FashionMNIST (embedded subset")
    assert "n = 2 (seeds 101, 102), 2 steps of 128 images" in text
    assert "| learned " in text
    assert str(path) in text
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_demo_without_matplotlib_says_what_curves_need(
    tmp_path, capsys, small_optimizers, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path = tmp_path / "demo.png"
    arguments = ["demo", "--seeds", "1", "--steps", "1", "--threads", "1"]
    assert main([*arguments, "--data", "embedded", "--out", str(path)]) == 0
    text = capsys.readouterr().out
    assert "| learned " in text
    assert "pip install 'l2o[benchmarks]'" in text
    assert not path.exists()


def test_demo_needs_a_seed(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--seeds", "0"])
    assert "Leave it out for two" in " ".join(capsys.readouterr().err.split())


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
