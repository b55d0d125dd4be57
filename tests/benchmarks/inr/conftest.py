import pytest
import torch

from benchmarks.inr import command
from benchmarks.inr.command import InrClassificationConfig, InrEditingConfig, RunsConfig
from benchmarks.inr.data import DataConfig, load_splits
from benchmarks.inr.models import Sizes
from l2o.companion import FitConfig
from optimizees.data.idx import write_idx

DATA = DataConfig(name="embedded", train=20, validation=6, test=6)


@pytest.fixture(scope="session")
def splits():
    """Twenty of the embedded fits to train on, six to select and six to test on."""
    return load_splits(DATA)


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """Ten random digits where the command looks for MNIST's."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (10, 28, 28), dtype=torch.uint8, generator=generator)
    data = tmp_path / "data"
    data.mkdir()
    write_idx(data / "mnist-t10k-images-idx3-ubyte.gz", pixels)
    labels = torch.arange(10, dtype=torch.uint8)
    write_idx(data / "mnist-t10k-labels-idx1-ubyte.gz", labels)
    monkeypatch.setenv("L2O_DATA", str(data))
    return pixels


@pytest.fixture(autouse=True)
def few_examples(monkeypatch):
    """Keep one edited image a row: drawing takes longer than learning here."""
    monkeypatch.setattr(command, "_EXAMPLES", 1)


@pytest.fixture
def classify(tmp_path):
    """Build a configuration of a few seconds, with changes."""

    def build(**changes):
        return _small(InrClassificationConfig, tmp_path, changes)

    return build


@pytest.fixture
def editing(tmp_path):
    """Build a configuration of a few seconds, with changes."""

    def build(**changes):
        return _small(InrEditingConfig, tmp_path, changes)

    return build


def _small(kind, folder, changes):
    places = {
        "folder": folder / "runs",
        "results": folder / "inr.jsonl",
        "models": changes.pop("models_folder", None),
    }
    runs = {
        name: changes.pop(name)
        for name in ("probes", "positions", "seeds")
        if name in changes
    }
    usual = {
        "data": DATA,
        "models": ("mlp",),
        "runs": RunsConfig(**{"probes": (0,), "seeds": (0,)} | runs, **places),
        "training": FitConfig(epochs=2, batch_size=8, warmup_steps=3),
        "sizes": Sizes(width=8),
    }
    return kind(**usual | changes)
