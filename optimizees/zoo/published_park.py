"""The published CNN Wild Park: checkpoints as the paper's code wrote them."""

import pickle
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

from l2o.files import printable
from optimizees.files import FileKind, is_plain_tensor
from optimizees.zoo.park_files import TrainedRun
from optimizees.zoo.wild_cnn import (
    Activation,
    WildArchitecture,
    WildLayer,
    parameter_shapes,
)
from optimizees.zoo.wild_park import Split

_NUMPY = [
    np.dtype,
    np.float32,
    np.float64,
    np.ndarray,
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
    np.float64(0).__reduce__()[0],  # what rebuilds a number
]
"""What the checkpoints' results may hold besides tensors and plain values."""

_SPELLINGS = {"none": "identity", "leakyrelu": "leaky_relu", "linear": "identity"}
_ACCURACY = "test/acc"
_TEST_RUNS = 50
_VALIDATION_RUNS = 25
_SPLIT_SEED = 42
_FILE = FileKind(
    "read_published_checkpoint",
    f"model, config and last_result[{_ACCURACY!r}]",
    "Name a checkpoint of the park.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedCheckpoint:
    """One network of the published park at one time of its training."""

    architecture: WildArchitecture
    """What it looks like."""
    parameters: dict[str, Tensor]
    """Name to values, `[*shape]`; names as in `WildCNN`."""
    accuracy: float
    """Test accuracy, in [0, 1]."""
    iteration: int
    """Training iterations of the run, as the checkpoint counts them."""


def read_published_checkpoint(path: Path) -> PublishedCheckpoint:
    """Read one checkpoint without running any code in it.

    The file holds a dictionary with `model`, `config`, `iteration` and `last_result`.
    Widths and kernels are those of the weights, in their order; activations and skips
    come from the lists `activation` (or `activations`) and `residual` anywhere in
    `config`. What the file pickles beyond tensors, plain values and numbers of numpy
    is refused.

    Args:
        path: a checkpoint of the archive, https://zenodo.org/records/12797219.

    Returns:
        The network.

    Raises:
        ValueError: if the file holds objects, lacks something or contradicts itself.
    """
    try:
        with safe_globals(_NUMPY):
            found = _FILE.read_checkpoint(path)
    except ValueError as error:
        refused = re.search(r"(?:GLOBAL|class) (\S+)", str(error.__cause__))
        if not isinstance(error.__cause__, pickle.UnpicklingError) or refused is None:
            raise
        raise ValueError(
            "read_published_checkpoint reads tensors and plain values only; got "
            f"{printable(refused[1])} in {path}. If you trust it, convert it once "
            "where omegaconf is installed: c = torch.load(path, weights_only=False); "
            "c['config'] = OmegaConf.to_container(c['config']); torch.save(c, path)."
        ) from error
    missing = [
        name
        for name in ("model", "config", "last_result")
        if not isinstance(found, dict) or not isinstance(found.get(name), Mapping)
    ]
    if missing:
        raise _FILE.error(path, f"it lacks {', '.join(missing)}")
    try:
        accuracy = float(found["last_result"][_ACCURACY])
        iteration = int(found.get("iteration", 0))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _FILE.error(path, f"its results are no numbers ({error!r})") from error
    if not 0 <= accuracy <= 1:
        raise _FILE.error(path, f"its accuracy is {accuracy}, not from 0 to 1")
    values = list(found["model"].values())
    if not all(map(is_plain_tensor, values)):
        raise _FILE.error(path, "its model holds other than tensors")
    weights = [value for value in values if value.ndim > 1]
    architecture = _architecture(weights, found["config"], path)
    shapes = parameter_shapes(architecture)
    if [tuple(value.shape) for value in values] != list(shapes.values()):
        raise ValueError(
            "read_published_checkpoint needs convolutions and a linear layer, each "
            f"weight before its bias; got {[tuple(v.shape) for v in values][:20]} in "
            f"{path}. The park has no other networks."
        )
    return PublishedCheckpoint(
        architecture=architecture,
        parameters=dict(zip(shapes, values, strict=True)),
        accuracy=accuracy,
        iteration=iteration,
    )


def find_published_checkpoints(directory: Path) -> dict[str, list[Path]]:
    """Return the checkpoints of each run below a directory, both in order.

    A run is a folder; split by these names, never by checkpoints.

    Args:
        directory: the unpacked archive.

    Raises:
        FileNotFoundError: if there is none.
    """
    runs: dict[str, list[Path]] = {}
    for path in sorted(_checkpoints(directory)):
        runs.setdefault(path.relative_to(directory).parts[0], []).append(path)
    if not runs:
        raise FileNotFoundError(
            f"the published park must be in {directory}; found no checkpoint below "
            "it. Unpack the archive of https://zenodo.org/records/12797219 there."
        )
    return runs


def is_published_park(directory: Path) -> bool:
    """Whether checkpoints of the published park lie below a directory, and no other."""
    is_ours = (directory / "park.json").is_file()
    return not is_ours and next(_checkpoints(directory), None) is not None


def _checkpoints(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory that may be checkpoints."""
    for path in directory.rglob("*"):
        if path.is_file() and path.suffix in ("", ".pt", ".pth", ".ckpt"):
            yield path


def read_published_park(directory: Path, split: Split) -> Iterator[TrainedRun]:
    """Read the runs of one split of the published park, in order.

    The paper's code splits by run: of the shuffled runs 50 are for testing, 25 for
    validation, the others for training. Its own shuffle is not known; here it is
    Python's with the seed 42, of the names in order. A park of fewer than 150 runs, as
    for a trial, gives a third and a sixth of them.

    Args:
        directory: the unpacked archive.
        split: which runs.

    Returns:
        Each run with its checkpoints by their iteration; as `epochs` it has iterations.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if a checkpoint is damaged, or a run's architecture changes.
    """
    runs = find_published_checkpoints(directory)
    names = sorted(runs)
    random.Random(_SPLIT_SEED).shuffle(names)
    test = min(_TEST_RUNS, len(names) // 3)
    held_out = test + min(_VALIDATION_RUNS, len(names) // 6)
    bounds = {
        "test": slice(0, test),
        "validation": slice(test, held_out),
        "train": slice(held_out, None),
    }
    for index, name in enumerate(names[bounds[split]], start=bounds[split].start):
        found = [read_published_checkpoint(path) for path in runs[name]]
        found.sort(key=lambda checkpoint: checkpoint.iteration)
        architecture = found[0].architecture
        if any(checkpoint.architecture != architecture for checkpoint in found):
            raise ValueError(
                "read_published_park needs runs of one architecture each; got several "
                f"in {printable(name)}. Unpack the archive as it is."
            )
        yield TrainedRun(
            index=index,
            architecture=architecture,
            epochs=torch.tensor([checkpoint.iteration for checkpoint in found]),
            accuracies=torch.tensor([checkpoint.accuracy for checkpoint in found]),
            parameters={
                key: torch.stack([item.parameters[key] for item in found]).float()
                for key in found[0].parameters
            },
            facts={"run": name},
        )


def _architecture(
    weights: list[Tensor], config: Mapping[str, Any], path: Path
) -> WildArchitecture:
    """Return what weights and configuration say of the network."""
    convs = [weight for weight in weights if weight.ndim == 4]
    residual = _find(config, ("residual",))
    names = _find(config, ("activation", "activations"))
    if not (convs and len(residual) == len(names) == len(convs)):
        raise ValueError(
            "read_published_checkpoint needs an entry of `activation` and of "
            f"`residual` for each convolution; got {len(names)} and {len(residual)} "
            f"for {len(convs)} in {path}. Check the lists in its config."
        )
    activations: list[Activation] = [_activation(str(name), path) for name in names]
    try:
        layers = tuple(
            WildLayer(
                channels=weight.shape[0],
                kernel_size=weight.shape[2],
                activation=activation,
                skip=None if int(source) < 0 else int(source),
            )
            for weight, activation, source in zip(
                convs, activations, residual, strict=True
            )
        )
        return WildArchitecture(layers=layers, in_channels=convs[0].shape[1])
    except (TypeError, ValueError, OverflowError) as error:
        raise _FILE.error(
            path, f"its `residual` is none of the park: {error}"
        ) from error


def _activation(name: str, path: Path) -> Activation:
    plain = name.lower().removeprefix("nn.")
    plain = _SPELLINGS.get(plain, plain)
    for known in get_args(Activation):
        if plain == known:
            return known
    raise ValueError(
        f"read_published_checkpoint knows {', '.join(get_args(Activation))}; got the "
        f"activation {printable(repr(name))} in {path}. Add its spelling to the reader."
    )


def _find(config: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    """Return the first list of one of these names, however deep; [] without one."""
    waiting = list(config.items())[::-1]
    seen: set[int] = set()
    while waiting:
        key, value = waiting.pop()
        if str(key) in names and isinstance(value, list | tuple):
            return list(value)
        if isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))  # what is pickled may contain itself
            waiting += list(value.items())[::-1]
    return []
