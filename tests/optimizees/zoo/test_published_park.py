import collections

import numpy as np
import pytest
import torch

from optimizees.zoo.published_park import (
    find_published_checkpoints,
    read_published_checkpoint,
)
from optimizees.zoo.wild_cnn import WildArchitecture, WildCNN, WildLayer

LAYERS = (
    WildLayer(channels=4, kernel_size=3, activation="relu"),
    WildLayer(channels=8, kernel_size=5, activation="identity"),
    WildLayer(channels=4, kernel_size=7, activation="leaky_relu", skip=0),
)


@pytest.fixture
def model():
    return WildCNN(WildArchitecture(layers=LAYERS))


@pytest.fixture
def contents(model):
    """What a checkpoint holds, with the names of another implementation."""
    values = model.state_dict().values()
    return {
        "model": {f"module.{place}": value for place, value in enumerate(values)},
        "optimizer": {"state": {}},
        "config": {
            "seed": 1,
            "model": {
                "activation": ["relu", "none", "LeakyReLU"],
                "residual": [-1, -1, 0],
            },
        },
        "iteration": 30,
        "last_result": {"test/acc": np.float64(0.25), "test/loss": 2.0},
    }


@pytest.fixture
def write(tmp_path, contents):
    def save(**changes):
        path = tmp_path / "checkpoint.pt"
        torch.save(contents | changes, path)
        return path

    return save


class NotPlain(collections.OrderedDict):
    """Stands for the objects of a package that is not installed."""


def test_a_checkpoint_becomes_a_network(write, model):
    found = read_published_checkpoint(write())
    assert found.architecture.layers == LAYERS
    assert (found.accuracy, found.iteration) == (0.25, 30)
    for name, value in model.state_dict().items():
        assert torch.equal(found.parameters[name], value)


def test_objects_are_refused_with_a_way_out(write):
    with pytest.raises(ValueError, match=r"OmegaConf\.to_container") as caught:
        read_published_checkpoint(write(config=NotPlain()))
    assert "NotPlain" in str(caught.value)


def test_code_in_a_file_is_not_run(write, tmp_path):
    class Attack:
        def __reduce__(self):
            return open, (str(tmp_path / "run"), "w")

    with pytest.raises(ValueError, match="tensors and plain values only"):
        read_published_checkpoint(write(optimizer=Attack()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"model": 3}, {"last_result": {}}])
def test_what_a_checkpoint_must_have(write, changes):
    with pytest.raises(ValueError, match="Name a checkpoint of the park"):
        read_published_checkpoint(write(**changes))


def test_lists_of_another_length(write):
    config = {"activation": ["relu"], "residual": [-1]}
    with pytest.raises(ValueError, match="Check the lists in its config"):
        read_published_checkpoint(write(config=config))


def test_an_activation_that_is_not_in_the_park(write, contents):
    config = {"activation": ["relu", "sine", "relu"], "residual": [-1, -1, 0]}
    with pytest.raises(ValueError, match="Add its spelling"):
        read_published_checkpoint(write(config=config))


def test_parameters_that_are_no_such_network(write, contents):
    weights = dict(list(contents["model"].items())[:-1])
    with pytest.raises(ValueError, match="The park has no other networks"):
        read_published_checkpoint(write(model=weights))


def test_runs_are_folders(tmp_path):
    for name in ("run_b/checkpoint_2.pt", "run_a/deep/1.pt", "run_b/checkpoint_1.pt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "run_a" / "result.json").touch()
    found = find_published_checkpoints(tmp_path)
    assert {run: len(paths) for run, paths in found.items()} == {"run_a": 1, "run_b": 2}
    assert [path.name for path in found["run_b"]] == [
        "checkpoint_1.pt",
        "checkpoint_2.pt",
    ]


def test_there_must_be_an_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match="Unpack the archive"):
        find_published_checkpoints(tmp_path)
