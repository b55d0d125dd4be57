"""One network of a CNN Wild Park with its checkpoints, and its file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor

from l2o.files import write_whole
from optimizees.files import FileKind
from optimizees.zoo.wild_cnn import WildArchitecture, parameter_shapes

_FORMAT = "wild-park-1"
RUN_FILE = FileKind(
    "read_run", "a network of a park", "Name a file that `l2o data wild-park` wrote."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedRun:
    """One network of a park with all its checkpoints."""

    index: int
    """Which network of the park."""
    architecture: WildArchitecture
    """What it looks like."""
    epochs: Int[Tensor, " K"]
    """Epochs that each checkpoint was trained for."""
    accuracies: Float[Tensor, " K"]
    """Test accuracy of each checkpoint, in [0, 1]."""
    parameters: dict[str, Tensor]
    """Name to values, `[K, *shape]`, float32; names as in `WildCNN`."""
    facts: dict[str, Any]
    """How it was trained and where it comes from, as JSON values."""

    def __len__(self) -> int:
        return len(self.accuracies)


def write_run(path: Path, run: TrainedRun, *, origin: Mapping[str, Any]) -> None:
    """Write one network with its checkpoints, whole or not at all.

    Args:
        path: the safetensors file.
        run: what to write.
        origin: further facts, as JSON values.
    """
    tensors = {f"parameters.{name}": value for name, value in run.parameters.items()}
    tensors |= {"epochs": run.epochs, "accuracies": run.accuracies}
    described = {
        "format": _FORMAT,
        "index": run.index,
        "architecture": run.architecture.to_json(),
        "facts": {**run.facts, **origin},
    }
    write_whole(path, save(tensors, {"run": json.dumps(described)}))


def read_run(path: Path) -> TrainedRun:
    """Read what `write_run` wrote.

    Raises:
        ValueError: if the file is damaged or holds something else.
    """
    metadata, tensors = RUN_FILE.read_tensors(path)
    if "run" not in metadata:
        raise RUN_FILE.error(path, "its metadata lack 'run'")
    described = RUN_FILE.parse_json(path, metadata["run"])
    try:
        if described["format"] != _FORMAT:
            raise ValueError(f"its format is {described['format']!r}, not {_FORMAT}")
        architecture = WildArchitecture.from_json(described["architecture"])
        run = TrainedRun(
            index=described["index"],
            architecture=architecture,
            epochs=tensors.pop("epochs"),
            accuracies=tensors.pop("accuracies"),
            parameters={
                name.removeprefix("parameters."): value
                for name, value in tensors.items()
            },
            facts=described["facts"],
        )
        _check_run(run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RUN_FILE.error(path, f"it describes no network: {error}") from error
    return run


def _check_run(run: TrainedRun) -> None:
    """Raise ValueError unless the parts of a file belong together."""
    if not isinstance(run.index, int) or not isinstance(run.facts, dict):
        raise ValueError("its index is no number, or its facts are no object")
    count = run.epochs.numel()
    if run.epochs.shape != (count,) or run.accuracies.shape != (count,):
        raise ValueError("it has other than one accuracy per checkpoint")
    if not bool(((run.accuracies >= 0) & (run.accuracies <= 1)).all()):
        raise ValueError("an accuracy is not from 0 to 1")
    expected = {
        name: (count, *shape)
        for name, shape in parameter_shapes(run.architecture).items()
    }
    found = {name: tuple(value.shape) for name, value in run.parameters.items()}
    if found != expected:
        raise ValueError("its parameters are not those of its architecture")
    for name, value in run.parameters.items():
        if value.dtype != torch.float32 or not bool(value.isfinite().all()):
            raise ValueError(f"{name!r} holds other than finite numbers in float32")
