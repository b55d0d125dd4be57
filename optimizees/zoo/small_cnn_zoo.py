"""The Small CNN Zoo: thousands of trained CNNs of one architecture, as files."""

import csv
import io
import math
import random
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from optimizees.files import DamagedFileError, FileKind

Split: TypeAlias = Literal["train", "validation", "test"]

WIDTH = 16
"""Channels of every convolution."""
NUM_CLASSES = 10
LAYERS: dict[str, tuple[int, ...]] = {
    "convs.0": (WIDTH, 1, 3, 3),
    "convs.1": (WIDTH, WIDTH, 3, 3),
    "convs.2": (WIDTH, WIDTH, 3, 3),
    "head": (NUM_CLASSES, WIDTH),
}
"""Shape of each layer's weight, as PyTorch has it: 4,970 numbers with the biases."""

_FILES = ("weights.npy", "metrics.csv.gz", "layout.csv")
_METRICS = FileKind(
    "read_small_cnn_zoo",
    "rows with step, test_accuracy and config.activation",
    "Take metrics.csv.gz of the published zoo, or of `l2o data cnn-zoo`.",
)
_WEIGHTS = FileKind(
    "read_small_cnn_zoo",
    "a matrix of float32, a row per checkpoint",
    "Take weights.npy of the published zoo, or of `l2o data cnn-zoo`.",
)
_LAYOUT = FileKind(
    "read_small_cnn_zoo",
    "kernels and biases inside the rows of weights.npy",
    "Take both files from one archive.",
)
_ORDER = FileKind(
    "read_small_cnn_zoo",
    "each row's number once in order=, perhaps below a header '0'",
    "Take the file that belongs to the zoo, or leave it out.",
)
_KERAS_NAMES = {
    "convs.0": "sequential/conv2d",
    "convs.1": "sequential/conv2d_1",
    "convs.2": "sequential/conv2d_2",
    "head": "sequential/dense",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ZooNetworks:
    """Networks of one split of a zoo, at one time of their training."""

    parameters: dict[str, Tensor]
    """Name to values, `[M, *shape]`, in PyTorch's layout, layer after layer."""
    accuracies: Float[Tensor, " M"]
    """Test accuracy, in [0, 1]."""
    activations: tuple[str, ...]
    """Activation of each network."""
    rows: tuple[int, ...]
    """Row of each in `weights.npy`."""
    step: int
    """Epochs that they were trained for."""

    def __len__(self) -> int:
        return len(self.accuracies)


def read_small_cnn_zoo(
    directory: Path,
    split: Split,
    *,
    step: int | None = None,
    order: Path | None = None,
) -> ZooNetworks:
    """Read one split of a zoo.

    The checkpoints are put in the published order, those of `step` are kept, and the
    second half is for testing. The first half is shuffled as the paper's code does it,
    with Python's generator at seed 0; four fifths are for training, the rest for
    validation. Of the 30,000 networks of a published zoo that leaves 12,000 for
    training, 3,000 for validation and 15,000 for testing.

    Args:
        directory: holds `weights.npy`, `metrics.csv.gz` and `layout.csv`, as
            `l2o data cnn-zoo` or the published archive fill it.
        split: which networks.
        step: epochs that they were trained for; None is the last that there is, which
            is 86 in the published zoo.
        order: a file with one row number per line, as released with the paper's code;
            None leaves the order as it is.

    Returns:
        The networks; their parameters are copies.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files do not fit each other, or if no checkpoint has `step`.

    Reference: Unterthiner et al., 2020, "Predicting Neural Network Accuracy from
        Weights", https://arxiv.org/abs/2002.11448. The released order begins with a
        header that their reader takes for a row number; here it is left out.
    """
    missing = [name for name in _FILES if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"a Small CNN Zoo must be in {directory}; it lacks {', '.join(missing)}. "
            "Run `l2o data cnn-zoo`, or unpack the published archive there."
        )
    metrics = _read_metrics(directory / "metrics.csv.gz")
    weights = _open_weights(directory / "weights.npy")
    count = len(metrics.steps)
    if count != len(weights):
        raise ValueError(
            "read_small_cnn_zoo needs a line of metrics.csv.gz for every row of "
            f"weights.npy; got {count} and {len(weights)} in {directory}. Take "
            "both from one archive."
        )
    steps = sorted(set(metrics.steps))
    wanted = steps[-1] if step is None else step
    if wanted not in steps:
        raise ValueError(
            f"read_small_cnn_zoo needs a step that the zoo has; got step={step}. Pass "
            f"one of {', '.join(map(str, steps))}."
        )
    ordered = range(count) if order is None else _read_order(order, count)
    kept = [row for row in ordered if metrics.steps[row] == wanted]
    chosen = _split(kept, split)
    layout_path = directory / "layout.csv"
    layout = _read_layout(layout_path)
    return ZooNetworks(
        parameters=_by_name(np.asarray(weights[chosen]), layout, layout_path),
        accuracies=torch.tensor([metrics.accuracies[row] for row in chosen]),
        activations=tuple(metrics.activations[row] for row in chosen),
        rows=tuple(chosen),
        step=wanted,
    )


def published_layout() -> str:
    """Return `layout.csv`: which entries of a row are which tensor."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["", "varname", "start_idx", "end_idx", "size", "shape"])
    stop = 0
    for place, (layer, shape) in enumerate(LAYERS.items()):
        kernel = (*shape[2:], shape[1], shape[0])
        for half, (kind, sizes) in enumerate((("bias", shape[:1]), ("kernel", kernel))):
            start, stop = stop, stop + int(np.prod(sizes))
            name = f"{_KERAS_NAMES[layer]}/{kind}:0"
            row = [2 * place + half, name, start, stop, stop - start, sizes]
            table.writerow(row)
    return text.getvalue()


def to_rows(parameters: Mapping[str, Tensor]) -> Float[Tensor, "M entries"]:
    """Return networks as rows of `weights.npy` in the order of `published_layout`.

    Args:
        parameters: name to values, `[M, *shape]`, in PyTorch's layout.
    """
    pieces = []
    for layer in LAYERS:
        weight = parameters[f"{layer}.weight"]
        axes = (0, *range(3, weight.ndim), 2, 1)
        pieces += [parameters[f"{layer}.bias"], weight.permute(axes).flatten(1)]
    return torch.cat(pieces, dim=1)


def _open_weights(path: Path) -> np.ndarray:
    """Return the rows of all checkpoints, not yet read."""
    try:
        weights = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy does not say which errors damage causes
        raise _WEIGHTS.error(path, f"it cannot be read ({error})") from error
    if weights.ndim != 2:
        raise _WEIGHTS.error(path, f"it has the shape {weights.shape}")
    if weights.dtype not in (np.float32, np.float64):
        raise _WEIGHTS.error(path, f"it holds numbers of type {weights.dtype}")
    return weights


def _by_name(
    rows: np.ndarray, layout: list[tuple[str, tuple[int, ...], slice]], path: Path
) -> dict[str, Tensor]:
    """Return the parameters in rows by name, in PyTorch's layout."""
    found: dict[str, Tensor] = {}
    layers: list[str] = []
    for name, shape, place in layout:
        match = re.fullmatch(r"(.*)/(kernel|bias):0", name)
        if match is None or place.stop > rows.shape[1]:
            raise _LAYOUT.error(
                path, f"{name!r} ends at {place.stop} of {rows.shape[1]} entries"
            )
        layer, kind = match.groups()
        if layer not in layers:
            layers.append(layer)
        values = torch.from_numpy(np.array(rows[:, place], np.float32))
        values = values.unflatten(1, shape)
        if kind == "kernel":  # Keras: (height, width, in, out) or (in, out)
            last = values.ndim - 1
            values = values.permute(0, last, last - 1, *range(1, last - 1))
        found[f"{layer}.{kind}"] = values.contiguous()
    names = [*(f"convs.{index}" for index in range(len(layers) - 1)), "head"]
    try:
        return {
            f"{name}.{ours}": found[f"{layer}.{keras}"]
            for name, layer in zip(names, layers, strict=True)
            for ours, keras in (("weight", "kernel"), ("bias", "bias"))
        }
    except (KeyError, ValueError) as error:
        raise _LAYOUT.error(
            path, f"a layer lacks its kernel or bias ({error})"
        ) from None


class _Metrics(NamedTuple):
    """Columns of `metrics.csv.gz`, an item per row."""

    steps: list[int]
    accuracies: list[float]
    activations: list[str]


def _read_metrics(path: Path) -> _Metrics:
    table = csv.reader(_METRICS.read_lines(path), strict=True)
    metrics = _Metrics([], [], [])
    try:
        header = next(table)
        step, accuracy, activation = (
            header.index(name)
            for name in ("step", "test_accuracy", "config.activation")
        )
        for row in table:
            metrics.steps.append(int(row[step]))
            metrics.accuracies.append(float(row[accuracy]))
            metrics.activations.append(sys.intern(row[activation]))
    except DamagedFileError:
        raise
    except (csv.Error, ValueError, IndexError, StopIteration) as error:
        raise _METRICS.error(path, f"line {table.line_num}: {error}") from error
    if not metrics.steps:
        raise _METRICS.error(path, "it has no rows")
    for number, value in enumerate(metrics.accuracies, start=2):
        if not 0 <= value <= 1:
            raise _METRICS.error(path, f"line {number} has the accuracy {value}")
    return metrics


def _read_layout(path: Path) -> list[tuple[str, tuple[int, ...], slice]]:
    """Return name, shape and place of each tensor in a row."""
    layout: list[tuple[str, tuple[int, ...], slice]] = []
    try:
        for row in csv.DictReader(_LAYOUT.read_lines(path, 2**20), strict=True):
            digits = re.findall(r"[0-9]{1,9}", row["shape"])
            start, stop = int(row["start_idx"]), int(row["end_idx"])
            shape = tuple(map(int, digits))
            if not 0 <= start <= stop or math.prod(shape) != stop - start or not shape:
                raise ValueError(f"{shape} does not fill {start} to {stop}")
            layout.append((row["varname"], shape, slice(start, stop)))
    except DamagedFileError:
        raise
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise _LAYOUT.error(path, f"tensor {len(layout)}: {error!r}") from error
    return layout


def _read_order(path: Path, count: int) -> list[int]:
    """Return row numbers without the header, which looks like one."""
    try:
        numbers = [int(line) for line in _ORDER.read_lines(path) if line.strip()]
    except DamagedFileError:
        raise
    except ValueError as error:
        raise _ORDER.error(path, error) from error
    if len(numbers) == count + 1 and numbers[0] == 0:
        numbers = numbers[1:]
    if sorted(numbers) != list(range(count)):
        raise _ORDER.error(path, f"it has {len(numbers)} lines for {count} rows")
    return numbers


def _split(rows: list[int], split: Split) -> list[int]:
    """Return the rows of a split: half for testing, a tenth for validation."""
    middle = len(rows) // 2
    if split == "test":
        return rows[middle:]
    first = list(range(middle))
    random.Random(0).shuffle(first)
    cut = int(0.8 * middle)
    chosen = first[:cut] if split == "train" else first[cut:]
    return [rows[index] for index in chosen]
