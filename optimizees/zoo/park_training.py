"""How the networks of a CNN Wild Park are drawn and trained."""

import math
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import convert_conv2d_weight_memory_format

from optimizees.data.images import ImageData
from optimizees.zoo.park_files import TrainedRun
from optimizees.zoo.wild_cnn import WildArchitecture, WildCNN, draw_architecture

_EVALUATION_BATCH = 250


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
