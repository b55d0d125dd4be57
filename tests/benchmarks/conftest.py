from functools import partial

import pytest
import torch

from benchmarks import demo
from l2o import PRESETS, NeuralGraphOpt, Rule, save_rule
from optimizees import MLP, ImageData, image_task


@pytest.fixture(scope="session")
def images():
    """Sixty random grey images of 28 x 28 pixels; image i is labelled i % 10."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(60, 1, 28, 28, generator=generator)
    return ImageData(pixels, torch.arange(60) % 10, source="random images")


@pytest.fixture(scope="session")
def task(images):
    """Train on the images and evaluate on them, too."""
    build = partial(MLP, (784, 32, 10))
    return image_task("small", build, images, batch_size=4, held_out={"test": images})


@pytest.fixture(scope="session")
def rule_file(tmp_path_factory):
    """A small rule that was never trained, which is Adam."""
    path = tmp_path_factory.mktemp("rules") / "small.safetensors"
    save_rule(
        Rule(PRESETS["default-ff"]),
        path,
        provenance={"commit": "0123456789ab", "seed": 3},
    )
    return str(path)


@pytest.fixture
def small_optimizers(monkeypatch, rule_file):
    """Let the demo run without the rules that the library ships."""
    rules = {
        "learned": lambda model: NeuralGraphOpt(model.parameters(), rule=rule_file),
        "Adam": lambda model: torch.optim.Adam(model.parameters()),
    }
    monkeypatch.setattr(demo, "OPTIMIZERS", rules)


@pytest.fixture
def make_row():
    """Build a row as `complete_runs` writes it."""

    def build(**values):
        row = {
            "task": "fashion-cnn",
            "optimizer": "adam",
            "lr": 0.01,
            "settings": {},
            "rule_sha256": None,
            "seed": 101,
            "steps": 1000,
            "evaluate_at": [],
            "batch_size": 128,
            "train_split": "train+validation",
            "held_out_split": "test",
            "data": "full",
            "diverged": False,
            "scores": [{"step": 1000, "train_loss": 0.5, "loss": 0.6, "accuracy": 0.8}],
            "optimizer_ms": 0.5,
            "loss_ms": 20.0,
            "curve_every": 10,
            "curve": [2.3, 1.0, 0.5],
            "rule": None,
            "data_source": "FashionMNIST (full), many images",
            "config": {},
            "provenance": {
                "commit": "0123456789ab",
                "versions": {"torch": "2.13"},
                "machine": {"processor": "a processor", "threads": 1},
            },
        }
        return row | values

    return build
