"""Train a Small CNN Zoo: thousands of CNNs of one architecture, many at a time."""

import csv
import gzip
import io
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor

from l2o.files import write_whole
from optimizees.data.images import ImageData
from optimizees.files import (
    FileKind,
    has_files,
    holds_tensors,
    settle_description,
)
from optimizees.shared_work import Locks, share_out
from optimizees.zoo.small_cnn_group import (
    ActivationName,
    OptimizerName,
    ZooConfig,
    ZooGroup,
    ZooRecipe,
    train_group,
)
from optimizees.zoo.small_cnn_zoo import LAYERS, published_layout

_OPTIMIZERS: tuple[OptimizerName, ...] = ("adam", "rmsprop", "sgd")
_ACTIVATIONS: tuple[ActivationName, ...] = ("relu", "tanh")
_TRAIN_FRACTIONS = (0.1, 0.25, 0.5, 1.0)
_NUM_ENTRIES = sum(math.prod(shape) + shape[0] for shape in LAYERS.values())
_GROUP_TENSORS = ("weights", "accuracies", "losses")
_FILE = FileKind(
    "generate_zoo",
    "whole files of its own",
    "Delete it and run the command again, which trains what is missing.",
)


def draw_zoo_recipes(config: ZooConfig, count: int) -> list[ZooRecipe]:
    """Draw how each network of a zoo is trained.

    Args:
        config: the ranges.
        count: how many networks; fewer are the beginning of more.

    Returns:
        One recipe per network.

    Reference: Unterthiner et al., 2020, "Predicting Neural Network Accuracy from
        Weights", https://arxiv.org/abs/2002.11448. They also vary the kind of initial
        distribution.
    """
    generator = np.random.default_rng(config.seed)
    recipes = []
    for _ in range(count):
        optimizer = _OPTIMIZERS[generator.integers(len(_OPTIMIZERS))]
        rate, std, l2 = (
            math.exp(generator.uniform(math.log(low), math.log(high)))
            for low, high in (config.learning_rate, config.init_std, config.l2)
        )
        recipes.append(
            ZooRecipe(
                activation=_ACTIVATIONS[generator.integers(len(_ACTIVATIONS))],
                optimizer=optimizer,
                learning_rate=rate * (config.sgd_factor if optimizer == "sgd" else 1),
                init_std=std,
                l2reg=l2,
                dropout=float(generator.uniform(*config.dropout)),
                train_fraction=_TRAIN_FRACTIONS[
                    generator.integers(len(_TRAIN_FRACTIONS))
                ],
                random_seed=int(generator.integers(2**31)),
            )
        )
    return recipes


def generate_zoo(
    directory: Path,
    config: ZooConfig,
    train: ImageData,
    test: ImageData,
    *,
    num_networks: int,
    origin: Mapping[str, Any],
    announce: Callable[[int, ZooGroup], object] | None = None,
) -> None:
    """Train the networks of a zoo and write them in the layout of the published one.

    Networks that are trained together share activation and optimizer; each such group
    is a file of its own, so a generation that was stopped continues where it stopped.
    A file that is empty or truncated is made again. Any number of processes may share
    one zoo: each trains the groups that no other one holds. When all groups are there,
    `weights.npy`, `metrics.csv.gz` and `layout.csv` are written.

    Args:
        directory: where everything goes.
        config: how the networks are trained.
        train: grey training images, on the device to train on.
        test: grey images that every checkpoint is tested on, on the same device.
        num_networks: how many.
        origin: facts to write with them, as JSON values.
        announce: called with the number of networks that are there and the group that
            this process trained last.

    Raises:
        ValueError: if the zoo there was trained otherwise or the images have colours.
        OSError: if a file cannot be written.
    """
    if train.images.shape[1] != 1 or test.images.shape[1] != 1:
        raise ValueError(
            "generate_zoo needs images of one channel, as the zoo has; got "
            f"{train.images.shape[1]}. Convert them to grey first."
        )
    if len(train) < config.batch_size:
        raise ValueError(
            "generate_zoo needs at least a batch of training images; got "
            f"{len(train)} for batches of {config.batch_size}. Lower the batch size."
        )
    description = {
        "config": asdict(config),
        "train": {"source": train.source, "num_images": len(train)},
        "test": {"source": test.source, "num_images": len(test)},
        "num_networks": num_networks,
    }
    recipes = draw_zoo_recipes(config, num_networks)
    folder = directory / "groups"
    groups = [
        (members, folder / f"{number:04d}.safetensors")
        for number, members in enumerate(_groups(recipes, config.at_once))
    ]
    settle = partial(settle_description, directory / "zoo.json", description)
    settle(is_binding=has_files(folder, "*.safetensors"))

    def find_missing() -> list[int]:
        return [
            number for number, (_, path) in enumerate(groups) if not holds_tensors(path)
        ]

    def make(number: int) -> None:
        members, path = groups[number]
        if holds_tensors(path):  # another process was faster
            return
        group = train_group([recipes[index] for index in members], config, train, test)
        tensors = {name: getattr(group, name) for name in _GROUP_TENSORS}
        settle(is_binding=has_files(folder, "*.safetensors"))
        write_whole(path, save(tensors, {"origin": json.dumps(dict(origin))}))
        if announce is not None:
            left = sum(len(groups[number][0]) for number in find_missing())
            announce(num_networks - left, group)

    share_out(find_missing, make, locks=Locks(directory))
    _publish(directory, config, recipes, groups)


def _groups(recipes: Sequence[ZooRecipe], at_once: int) -> Iterator[list[int]]:
    """Yield the numbers of networks that are trained together."""
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, recipe in enumerate(recipes):
        alike[recipe.activation, recipe.optimizer].append(index)
    for _, members in sorted(alike.items()):
        for start in range(0, len(members), at_once):
            yield members[start : start + at_once]


def _publish(
    directory: Path,
    config: ZooConfig,
    recipes: Sequence[ZooRecipe],
    groups: Sequence[tuple[Sequence[int], Path]],
) -> None:
    """Write the published layout: a row per checkpoint, network after network."""
    times = len(config.checkpoints)
    weights = np.empty((len(recipes), times, _NUM_ENTRIES), np.float32)
    scores = np.empty((len(recipes), times, 2))
    for members, path in groups:
        tensors = _read_group(path, (times, len(members)))
        weights[members] = tensors["weights"].transpose(0, 1).numpy()
        scores[members, :, 0] = tensors["accuracies"].T.numpy()
        scores[members, :, 1] = tensors["losses"].T.numpy()
    buffer = io.BytesIO()
    np.save(buffer, weights.reshape(-1, _NUM_ENTRIES))
    write_whole(directory / "weights.npy", buffer.getvalue())
    text = io.StringIO()
    names = [f"config.{name}" for name in asdict(recipes[0])]
    table = csv.writer(text)
    table.writerow(["", *names, "step", "test_accuracy", "test_loss"])
    for index, recipe in enumerate(recipes):
        for place, step in enumerate(config.checkpoints):
            row = [*asdict(recipe).values(), step, *scores[index, place].tolist()]
            table.writerow([index * times + place, *row])
    packed = gzip.compress(text.getvalue().encode(), mtime=0)
    write_whole(directory / "metrics.csv.gz", packed)
    write_whole(directory / "layout.csv", published_layout().encode())


def _read_group(path: Path, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Return what was written of networks that were trained together."""
    _, tensors = _FILE.read_tensors(path)
    expected = dict.fromkeys(_GROUP_TENSORS, shape) | {
        "weights": (*shape, _NUM_ENTRIES)
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise _FILE.error(path, f"it holds {found} instead of {expected}")
    return tensors
