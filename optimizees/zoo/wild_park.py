"""The CNN Wild Park: train it, one file per network, and read it."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import convert_conv2d_weight_memory_format

from optimizees.data.images import ImageData
from optimizees.files import (
    FileKind,
    has_files,
    holds_tensors,
    settle_description,
    write_whole,
)
from optimizees.zoo.wild_cnn import (
    WildArchitecture,
    WildCNN,
    draw_architecture,
    parameter_shapes,
)
from optimizees.zoo.workers import map_unordered

Split: TypeAlias = Literal["train", "validation", "test"]

EMBEDDED_PARK = Path(__file__).parent / "embedded" / "park"
"""Twelve small networks of a real park, three checkpoints each, to try things on."""

_TURN = 10
_SPLITS: dict[Split, range] = {
    "train": range(7),
    "validation": range(7, 8),
    "test": range(8, 10),
}
_EVALUATION_BATCH = 250
_FORMAT = "wild-park-1"
_FILE = FileKind(
    "read_run", "a network of a park", "Name a file that `l2o data wild-park` wrote."
)


@dataclass(frozen=True, kw_only=True)
class ParkConfig:
    """How the networks of a park are trained.

    The paper trains 2,800 networks on all of CIFAR-10 for 200 to 1,000 epochs at one
    learning rate. The defaults here fit half an hour of one CPU core: smaller images,
    fewer of them, a few epochs, and learning rates that differ, so that accuracies
    spread as widely.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    epochs: tuple[int, int] = (10, 12)
    """Fewest and most passes over the training images; drawn uniformly."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints."""
    learning_rate: tuple[float, float] = (3e-4, 1e-2)
    """Smallest and largest rate of AdamW; drawn log-uniformly."""
    weight_decay: float = 0.0
    """Of AdamW."""
    batch_size: int = 64
    """Images per batch."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the training passes; parameters and evaluations are float32 in any case."""
    seed: int = 0
    """Decides every architecture, rate, initial weight and batch."""

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(
                    f"ParkConfig {name} must be (lowest, highest) with 0 < lowest <= "
                    f"highest; got {name}={(low, high)}. Swap or raise them."
                )
        if (
            self.batch_size < 1
            or self.seed < 0
            or not 0 <= self.weight_decay < math.inf
        ):
            raise ValueError(
                "ParkConfig needs batch_size of at least 1, seed and weight_decay of "
                f"at least 0; got {self.batch_size}, {self.seed} and "
                f"{self.weight_decay}. Raise them."
            )
        if not 1 <= self.checkpoint_every <= self.epochs[0]:
            raise ValueError(
                "ParkConfig checkpoint_every must be between 1 and the fewest "
                f"epochs; got {self.checkpoint_every} for {self.epochs[0]} epochs. "
                "Choose 1 for a checkpoint after every epoch."
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one network of a park is and how it is trained."""

    index: int
    """Which network of the park."""
    architecture: WildArchitecture
    """What it looks like."""
    learning_rate: float
    """Of AdamW."""
    epochs: int
    """Passes over the training images."""
    seed: int
    """Decides its initial weights and batches."""


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


def draw_recipe(config: ParkConfig, index: int, *, in_channels: int) -> Recipe:
    """Draw network `index` of a park, independently of all others.

    Args:
        config: how the park is trained.
        index: which network.
        in_channels: channels of the images.

    Returns:
        The recipe.
    """
    entropy = np.random.SeedSequence((config.seed, index))
    own, training = (int(word) for word in entropy.generate_state(2))
    generator = torch.Generator().manual_seed(own)
    architecture = draw_architecture(generator, in_channels=in_channels)
    low, high = config.learning_rate
    place = float(torch.rand((), generator=generator, dtype=torch.float64))
    fewest, most = config.epochs
    return Recipe(
        index=index,
        architecture=architecture,
        learning_rate=low * (high / low) ** place,
        epochs=int(torch.randint(fewest, most + 1, (), generator=generator)),
        seed=training,
    )


def train_network(
    recipe: Recipe, config: ParkConfig, train: ImageData, test: ImageData
) -> TrainedRun:
    """Train one network and keep its checkpoints.

    Args:
        recipe: the network.
        config: how the park is trained.
        train: the training images, on the device to train on.
        test: the images that every checkpoint is tested on, on the same device.

    Returns:
        The checkpoints, on the CPU. A run whose weights stop being finite ends there
        and keeps those before, perhaps none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = WildCNN(recipe.architecture).to(train.images.device)
    convert_conv2d_weight_memory_format(model, torch.channels_last)
    train, test = _channels_last(train), _channels_last(test)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    epochs: list[int] = []
    accuracies: list[float] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in model.state_dict()}
    for epoch in range(1, recipe.epochs + 1):
        _train_epoch(model, optimizer, config, train, generator)
        if not all(bool(param.isfinite().all()) for param in model.parameters()):
            break
        if epoch % config.checkpoint_every == 0:
            epochs.append(epoch)
            accuracies.append(measure_accuracy(model, test))
            for name, value in model.state_dict().items():
                copy = value.clone(memory_format=torch.contiguous_format)
                kept[name].append(copy.cpu())
    facts = {
        "learning_rate": recipe.learning_rate,
        "seed": recipe.seed,
        "planned_epochs": recipe.epochs,
        "device": train.images.device.type,
        "config": asdict(config),
    }
    return TrainedRun(
        index=recipe.index,
        architecture=recipe.architecture,
        epochs=torch.tensor(epochs, dtype=torch.int64),
        accuracies=torch.tensor(accuracies, dtype=torch.float32),
        parameters={
            name: torch.stack(values)
            if values
            else torch.zeros(0, *param.shape, dtype=param.dtype)
            for (name, values), param in zip(
                kept.items(), model.state_dict().values(), strict=True
            )
        },
        facts=facts,
    )


def measure_accuracy(model: nn.Module, data: ImageData) -> float:
    """Return the share of images that a network gets right, in float32."""
    batches = zip(
        data.images.split(_EVALUATION_BATCH),
        data.labels.split(_EVALUATION_BATCH),
        strict=True,
    )
    with torch.no_grad():
        hits = [(model(images).argmax(1) == labels).sum() for images, labels in batches]
    return int(sum(hits)) / len(data)


def generate_park(
    directory: Path,
    config: ParkConfig,
    train: ImageData,
    test: ImageData,
    *,
    indices: range,
    origin: Mapping[str, Any],
    workers: int = 1,
    announce: Callable[[TrainedRun], object] | None = None,
) -> None:
    """Train the networks of a park that are not there yet, one file each.

    A file that is empty or truncated counts as not there. Files appear whole or not at
    all, so a generation that was stopped goes on where it stopped, and several
    processes may share one park if each has its own indices.

    Args:
        directory: where the files go.
        config: how the networks are trained.
        train: the training images, on the device to train on.
        test: the images that every checkpoint is tested on, on the same device.
        indices: which networks.
        origin: facts to write with every network, as JSON values: where the images
            come from, which code made it.
        workers: networks that are trained at a time, each in a process with as many
            threads as this one; the networks do not depend on it.
        announce: called with every network that was trained.

    Raises:
        ValueError: if the park there was trained otherwise, or without workers.
        OSError: if a file cannot be written.
    """
    description = {
        "config": asdict(config),
        "train": {"source": train.source, "num_images": len(train)},
        "test": {"source": test.source, "num_images": len(test)},
        "image_shape": list(train.images.shape[1:]),
    }
    if indices.start < 0:
        raise ValueError(
            "generate_park needs indices of at least 0; got "
            f"{indices.start} to {indices.stop - 1}. Begin with 0."
        )
    missing = missing_runs(directory, indices)
    make = partial(_make_run, directory, config, train, test, origin, description)
    runs = map_unordered(make, missing, workers=workers)
    _settle(directory, description)
    for run in runs:
        if announce is not None:
            announce(run)


def missing_runs(directory: Path, indices: range) -> list[int]:
    """Return which networks of a park are still to be trained.

    Args:
        directory: where the files are.
        indices: which networks to look for.
    """
    return [index for index in indices if not holds_tensors(_path(directory, index))]


def _settle(directory: Path, description: dict[str, Any]) -> None:
    """Agree with the park in the directory, or with what is to be trained there."""
    is_binding = has_files(directory, "*.safetensors")
    settle_description(directory / "park.json", description, is_binding=is_binding)


def _make_run(
    directory: Path,
    config: ParkConfig,
    train: ImageData,
    test: ImageData,
    origin: Mapping[str, Any],
    description: dict[str, Any],
    index: int,
) -> TrainedRun:
    """Train one network and write its file."""
    recipe = draw_recipe(config, index, in_channels=train.images.shape[1])
    run = train_network(recipe, config, train, test)
    _settle(directory, description)
    write_run(_path(directory, index), run, origin=origin)
    return run


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
    metadata, tensors = _FILE.read_tensors(path)
    if "run" not in metadata:
        raise _FILE.error(path, "its metadata lack 'run'")
    described = _FILE.parse_json(path, metadata["run"])
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
        raise _FILE.error(path, f"it describes no network: {error}") from error
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


def read_park(directory: Path, split: Split) -> Iterator[TrainedRun]:
    """Read the networks of one split of a park, in order.

    Networks are drawn independently of their number, so the number decides: of every
    ten, the first seven are for training, the eighth for validation, two for testing.
    All checkpoints of a network are in the split of the network.

    Args:
        directory: what `l2o data wild-park` filled.
        split: which networks.

    Yields:
        Networks with at least one checkpoint.

    Raises:
        FileNotFoundError: if there is no park.
        ValueError: if a file is damaged, or not named after the network's number.
    """
    describe_park(directory)
    for path in sorted(directory.glob("*.safetensors")):
        if not path.stem.isdecimal():
            raise _FILE.error(path, "its name is no number")
        if int(path.stem) % _TURN in _SPLITS[split]:
            run = read_run(path)
            if len(run):
                yield run


def describe_park(directory: Path) -> dict[str, Any]:
    """Return how a park was trained, as `park.json` has it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    path = directory / "park.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"a wild park must be in {directory}; found no park.json there. "
            "Run `l2o data wild-park`, or name the directory of a park."
        )
    kind = FileKind("describe_park", "a JSON object", "Restore the file.")
    found = kind.read_json(path)
    if not isinstance(found, dict):
        raise kind.error(path, "it holds no JSON object")
    return found


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: ParkConfig,
    data: ImageData,
    generator: torch.Generator,
) -> None:
    order = torch.randperm(len(data), generator=generator)
    is_half = config.precision == "bfloat16"
    for indices in order.split(config.batch_size):
        indices = indices.to(data.images.device)
        with torch.autocast(indices.device.type, torch.bfloat16, enabled=is_half):
            logits = model(data.images[indices])
        loss = functional.cross_entropy(logits.float(), data.labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _channels_last(data: ImageData) -> ImageData:
    """Return images in channels-last memory, which convolves faster."""
    images = data.images.contiguous(memory_format=torch.channels_last)
    return ImageData(images, data.labels, data.source)


def _path(directory: Path, index: int) -> Path:
    return directory / f"{index:05d}.safetensors"
