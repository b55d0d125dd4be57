"""The named tasks: networks of the paper, and networks that no rule was trained on.

This file is the one place that lists them: a new one is a name in a literal and a row
of `TASKS`. `task_loader` reads their data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from .autoencoder import Autoencoder
from .cnn import ConvNet, cifar_cnn, fashion_cnn
from .data.scikit import (
    Examples,
    load_diabetes,
    load_digit_graph,
    load_graph_nodes,
    load_photograph,
)
from .data.splits import Split
from .lstm import TiedLSTM
from .mlp import MLP
from .node_classifier import NodeClassifier
from .preactivation import PreActivationNet
from .siren import Siren
from .task import ACCURACY, Metric, cross_entropy
from .transformer import GPT, BlockSizes, ViT

PaperTask: TypeAlias = Literal["fashion-cnn", "cifar-cnn"]
"""The paper's training task and its test task."""
HeldOutTask: TypeAlias = Literal[
    "digits-mlp",
    "fashion-autoencoder",
    "text-gpt",
    "text-lstm",
    "cifar-resnet",
    "cifar-vit",
    "cifar-group-norm",
    "photo-siren",
    "digits-graph",
    "diabetes-mlp",
]
"""Networks, and partly data, that no shipped rule was trained on."""
TaskName: TypeAlias = Literal[PaperTask, HeldOutTask, "fashion-mlp"]
"""Every named task; fashion-mlp is small, for tests and first experiments."""

ImagesName: TypeAlias = Literal["fashion-mnist", "cifar-10", "digits"]


@dataclass(frozen=True)
class Budget:
    """Defaults of a task's training."""

    steps: int = 1000
    """Updates; the paper's number by default."""
    batch_size: int = 128
    """Examples per batch; a piece of text is one. The paper's number by default."""
    evaluations: int = 1
    """How often held-out data is evaluated during the run, at equal distances; the last
    time at its end. Where that takes as long as many steps, it is done once."""
    seeds: int = 5
    """How often the run is repeated, from other initial weights and batches."""


@dataclass(frozen=True)
class ImageTask:
    """A network on a data set of images."""

    images: ImagesName
    build: Callable[[torch.Size], nn.Module]
    """Builds the network for images of a shape `[C, H, W]`."""
    takes_any_size: bool = False
    """Whether the network can be built for images of other sizes."""
    restores: bool = False
    """Whether the images themselves are the targets."""
    budget: Budget = Budget()


@dataclass(frozen=True)
class TextTask:
    """A network on the characters of Python's manual."""

    context: int
    """Characters that the network sees."""
    build: Callable[[int], nn.Module]
    """Builds the network for a number of different characters."""
    budget: Budget


@dataclass(frozen=True)
class TableTask:
    """A network on inputs and targets in memory."""

    read: Callable[[Split], Examples]
    """Reads a split."""
    build: Callable[[], nn.Module]
    budget: Budget
    criterion: Callable[[Any, Any], Tensor] = functional.mse_loss
    """Maps outputs and targets of a batch to their mean loss."""
    metric: Metric | None = None


def _digit_classifier() -> NodeClassifier:
    graph = load_digit_graph()
    return NodeClassifier(graph.features, graph.edges)


TASKS: dict[TaskName, ImageTask | TextTask | TableTask] = {
    "fashion-cnn": ImageTask(
        "fashion-mnist",
        lambda _: fashion_cnn(),
        takes_any_size=True,
        budget=Budget(seeds=10),
    ),
    "fashion-mlp": ImageTask(
        "fashion-mnist",
        lambda shape: MLP((shape.numel(), 32, 10)),
        takes_any_size=True,
    ),
    "fashion-autoencoder": ImageTask(
        "fashion-mnist",
        lambda shape: Autoencoder(shape.numel()),
        restores=True,
        budget=Budget(steps=300, evaluations=10),
    ),
    "digits-mlp": ImageTask(
        "digits",
        lambda shape: MLP((shape.numel(), 128, 64, 10)),
        budget=Budget(steps=300, evaluations=10),
    ),
    "cifar-cnn": ImageTask(
        "cifar-10", lambda _: cifar_cnn(), takes_any_size=True, budget=Budget(seeds=10)
    ),
    "cifar-resnet": ImageTask(
        "cifar-10",
        lambda _: PreActivationNet(units=1),
        budget=Budget(steps=500, batch_size=64),
    ),
    "cifar-group-norm": ImageTask(
        "cifar-10",
        lambda shape: ConvNet(3, (16, 32, 64), image_size=shape[-1], norm="group"),
        takes_any_size=True,
        budget=Budget(steps=500, batch_size=64),
    ),
    "cifar-vit": ImageTask(
        "cifar-10",
        lambda shape: ViT(
            image_size=shape[-1],
            patch_size=4,
            sizes=BlockSizes(width=48, num_blocks=3, num_heads=3),
            num_classes=10,
        ),
        budget=Budget(steps=500, batch_size=64),
    ),
    "text-gpt": TextTask(
        64,
        lambda vocabulary: GPT(
            vocabulary,
            context=64,
            sizes=BlockSizes(width=64, num_blocks=3, num_heads=4),
        ),
        Budget(steps=500, batch_size=32, evaluations=5),
    ),
    "text-lstm": TextTask(
        64,
        lambda vocabulary: TiedLSTM(vocabulary, width=64),
        Budget(steps=300, batch_size=32, evaluations=10),
    ),
    "photo-siren": TableTask(
        load_photograph,
        lambda: Siren((2, 64, 64, 3)),
        Budget(steps=500, batch_size=512, evaluations=10),
    ),
    "digits-graph": TableTask(
        load_graph_nodes,
        _digit_classifier,
        Budget(steps=200, evaluations=10),
        criterion=cross_entropy,
        metric=ACCURACY,
    ),
    "diabetes-mlp": TableTask(
        load_diabetes,
        lambda: MLP((10, 64, 64, 1)),
        Budget(steps=200, batch_size=32, evaluations=10),
    ),
}
"""Every named task."""


def budget_of(name: TaskName) -> Budget:
    """Return the number of steps and the batch size of a task.

    Example:
        >>> budget_of("text-gpt")
        Budget(steps=500, batch_size=32, evaluations=5, seeds=5)
    """
    return TASKS[name].budget
