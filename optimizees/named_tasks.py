"""The named tasks: networks of the paper, and networks that no rule was trained on.

This file is the one place that lists them: a new one is a name in a literal and a row
of `_IMAGE_TASKS`, `_TEXT_TASKS` or `_TABLE_TASKS`.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, TypeAlias, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from .autoencoder import Autoencoder
from .batches import BatchSampler, cut, num_examples
from .cnn import ConvNet, cifar_cnn, fashion_cnn
from .data.cifar import load_cifar10
from .data.digits import load_digits
from .data.fashion_mnist import load_fashion_mnist
from .data.images import ImageData
from .data.layouts import locate
from .data.scikit import (
    Examples,
    load_diabetes,
    load_digit_graph,
    load_graph_nodes,
    load_photograph,
)
from .data.text import TextData, load_manual
from .image_tasks import image_task
from .lstm import TiedLSTM
from .mlp import MLP
from .node_classifier import NodeClassifier
from .preactivation import PreActivationNet
from .siren import Siren
from .task import ACCURACY, Metric, Task, cross_entropy, restoring
from .text_tasks import text_task
from .transformer import GPT, ViT

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

DataChoice: TypeAlias = Literal["auto", "full", "embedded"]
"""Which copy of FashionMNIST; other data sets have one copy."""
TrainSplit: TypeAlias = Literal["train", "train+validation"]
HeldOutSplit: TypeAlias = Literal["validation", "test"]
Split: TypeAlias = TrainSplit | HeldOutSplit
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
class _ImageTask:
    """A network on a data set of images."""

    images: ImagesName
    build: Callable[[torch.Size], nn.Module]
    """Builds the network for images of a shape `[C, H, W]`."""
    takes_any_size: bool = False
    restores: bool = False
    """Whether the images themselves are the targets."""
    budget: Budget = Budget()


@dataclass(frozen=True)
class _TextTask:
    """A network on the characters of Python's manual."""

    context: int
    """Characters that the network sees."""
    build: Callable[[int], nn.Module]
    """Builds the network for a number of different characters."""
    budget: Budget


@dataclass(frozen=True)
class _TableTask:
    """A network on inputs and targets in memory."""

    read: Callable[[Split], Examples]
    """Reads a split."""
    build: Callable[[], nn.Module]
    criterion: Callable[[Any, Any], Tensor]
    """Maps outputs and targets of a batch to their mean loss."""
    metric: Metric | None
    budget: Budget


def _digit_classifier() -> NodeClassifier:
    graph = load_digit_graph()
    return NodeClassifier(graph.features, graph.edges)


_IMAGE_TASKS: dict[str, _ImageTask] = {
    "fashion-cnn": _ImageTask(
        "fashion-mnist",
        lambda _: fashion_cnn(),
        takes_any_size=True,
        budget=Budget(seeds=10),
    ),
    "fashion-mlp": _ImageTask(
        "fashion-mnist",
        lambda shape: MLP((shape.numel(), 32, 10)),
        takes_any_size=True,
    ),
    "fashion-autoencoder": _ImageTask(
        "fashion-mnist",
        lambda shape: Autoencoder(shape.numel()),
        restores=True,
        budget=Budget(steps=300, evaluations=10),
    ),
    "digits-mlp": _ImageTask(
        "digits",
        lambda shape: MLP((shape.numel(), 128, 64, 10)),
        budget=Budget(steps=300, evaluations=10),
    ),
    "cifar-cnn": _ImageTask(
        "cifar-10", lambda _: cifar_cnn(), takes_any_size=True, budget=Budget(seeds=10)
    ),
    "cifar-resnet": _ImageTask(
        "cifar-10",
        lambda _: PreActivationNet(units=1),
        budget=Budget(steps=500, batch_size=64),
    ),
    "cifar-group-norm": _ImageTask(
        "cifar-10",
        lambda shape: ConvNet(3, (16, 32, 64), image_size=shape[-1], norm="group"),
        takes_any_size=True,
        budget=Budget(steps=500, batch_size=64),
    ),
    "cifar-vit": _ImageTask(
        "cifar-10",
        lambda shape: ViT(
            image_size=shape[-1],
            patch_size=4,
            width=48,
            num_blocks=3,
            num_heads=3,
            num_classes=10,
        ),
        budget=Budget(steps=500, batch_size=64),
    ),
}
_TEXT_TASKS: dict[str, _TextTask] = {
    "text-gpt": _TextTask(
        64,
        lambda vocabulary: GPT(
            vocabulary, context=64, width=64, num_blocks=3, num_heads=4
        ),
        Budget(steps=500, batch_size=32, evaluations=5),
    ),
    "text-lstm": _TextTask(
        64,
        lambda vocabulary: TiedLSTM(vocabulary, width=64),
        Budget(steps=300, batch_size=32, evaluations=10),
    ),
}
_TABLE_TASKS: dict[str, _TableTask] = {
    "photo-siren": _TableTask(
        load_photograph,
        lambda: Siren((2, 64, 64, 3)),
        functional.mse_loss,
        None,
        Budget(steps=500, batch_size=512, evaluations=10),
    ),
    "digits-graph": _TableTask(
        load_graph_nodes,
        _digit_classifier,
        cross_entropy,
        ACCURACY,
        Budget(steps=200, evaluations=10),
    ),
    "diabetes-mlp": _TableTask(
        load_diabetes,
        lambda: MLP((10, 64, 64, 1)),
        functional.mse_loss,
        None,
        Budget(steps=200, batch_size=32, evaluations=10),
    ),
}


class TaskLoader:
    """Loads named tasks; every split of a data set is read and moved once.

    Args:
        data: which copy of FashionMNIST.
        device: where the data lies, and with it every network.
    """

    def __init__(
        self, *, data: DataChoice = "auto", device: torch.device | str = "cpu"
    ) -> None:
        self.data: DataChoice = data
        self.device = torch.device(device)
        self.images = cache(self._read_images)
        self._text = cache(self._read_text)
        self._table = cache(self._read_table)

    def load(
        self,
        name: TaskName,
        *,
        batch_size: int = 128,
        train_split: TrainSplit = "train",
        held_out: tuple[HeldOutSplit, ...] = ("validation",),
        image_size: int | None = None,
    ) -> Task:
        """Load a task.

        Args:
            name: which; the paper's tasks are "fashion-cnn" and "cifar-cnn".
            batch_size: examples per batch; the paper takes 128.
            train_split: what to train on.
            held_out: splits to evaluate on.
            image_size: pixels per side to which images are average-pooled, for
                "fashion-cnn", "cifar-cnn", "cifar-group-norm" and "fashion-mlp"; None
                leaves them.

        Raises:
            FileNotFoundError: if data is not there.
            ModuleNotFoundError: if the task needs a package that is not installed.
            ValueError: if image_size does not fit, or the batch is impossible.

        Reference: Kofinas et al., 2024, "Graph Neural Networks for Learning
            Equivariant Representations of Neural Networks",
            https://arxiv.org/abs/2403.12143, section 4.3, for the paper's tasks.
        """
        if name in _TEXT_TASKS:
            _check_size(name, image_size, takes_any_size=False)
            return self._load_text(name, batch_size, train_split, held_out)
        if name in _TABLE_TASKS:
            _check_size(name, image_size, takes_any_size=False)
            return self._load_table(name, batch_size, train_split, held_out)
        row = _IMAGE_TASKS[name]
        _check_size(name, image_size, takes_any_size=row.takes_any_size)
        train = self.images(row.images, train_split, image_size)
        task = image_task(
            name,
            partial(row.build, train.images.shape[1:]),
            train,
            batch_size=batch_size,
            held_out={
                split: self.images(row.images, split, image_size) for split in held_out
            },
        )
        return restoring(task) if row.restores else task

    def _load_text(
        self,
        name: str,
        batch_size: int,
        train_split: TrainSplit,
        held_out: tuple[HeldOutSplit, ...],
    ) -> Task:
        row = _TEXT_TASKS[name]
        train = self._text(train_split)
        return text_task(
            name,
            partial(row.build, len(train.vocabulary)),
            train,
            batch_size=batch_size,
            context=row.context,
            held_out={split: self._text(split) for split in held_out},
        )

    def _load_table(
        self,
        name: str,
        batch_size: int,
        train_split: TrainSplit,
        held_out: tuple[HeldOutSplit, ...],
    ) -> Task:
        row = _TABLE_TASKS[name]
        train = self._table(name, train_split)
        splits = {split: self._table(name, split) for split in held_out}
        batches = partial(BatchSampler, train.data, batch_size)
        batches(0)  # refuses an impossible batch size now
        first = next(iter(splits.values()), None)
        ending = "" if first is None else f" and {num_examples(first.data):,} held out"
        return Task(
            name=name,
            build_model=row.build,
            batches=batches,
            criterion=row.criterion,
            metric=row.metric,
            held_out={split: cut(found.data) for split, found in splits.items()},
            source=f"{train.source}, {num_examples(train.data):,} examples to train on"
            + ending,
            device=self.device,
        )

    def _read_images(
        self, name: ImagesName, split: Split, size: int | None = None
    ) -> ImageData:
        """Return images on the device, pooled to `size` pixels per side."""
        if size is not None:
            whole = self.images(name, split, None)
            is_whole = whole.images.shape[-2:] == (size, size)
            return whole if is_whole else whole.pooled(size)
        match name:
            case "fashion-mnist":
                found = load_fashion_mnist(split, source=_copy_of_fashion(self.data))
            case "cifar-10":
                found = load_cifar10(split)
            case "digits":
                found = load_digits(split)
            case _:
                assert_never(name)
        return found.to(self.device)

    def _read_text(self, split: Split) -> TextData:
        text = load_manual(split)
        return replace(text, tokens=text.tokens.to(self.device))

    def _read_table(self, name: str, split: Split) -> Examples:
        found = _TABLE_TASKS[name].read(split)
        return replace(
            found, data=tree_map(lambda item: item.to(self.device), found.data)
        )


def load_task(
    name: TaskName,
    *,
    batch_size: int = 128,
    train_split: TrainSplit = "train",
    held_out: tuple[HeldOutSplit, ...] = ("validation",),
    image_size: int | None = None,
    data: DataChoice = "auto",
    device: torch.device | str = "cpu",
) -> Task:
    """Load one named task; see `TaskLoader.load`.

    Example:
        >>> from optimizees import load_task
        >>> task = load_task("fashion-cnn", batch_size=8, data="embedded")
        >>> task.source
        'FashionMNIST (embedded subset), 9,000 images to train on and 1,000 held out'
    """
    return TaskLoader(data=data, device=device).load(
        name,
        batch_size=batch_size,
        train_split=train_split,
        held_out=held_out,
        image_size=image_size,
    )


def budget_of(name: TaskName) -> Budget:
    """Return the number of steps and the batch size of a task.

    Example:
        >>> budget_of("text-gpt")
        Budget(steps=500, batch_size=32, evaluations=5, seeds=5)
    """
    return {**_IMAGE_TASKS, **_TEXT_TASKS, **_TABLE_TASKS}[name].budget


def data_identity(name: TaskName, data: DataChoice) -> str:
    """Return what distinguishes the data of a task from other data of that name.

    Args:
        name: the task.
        data: which copy of FashionMNIST; "auto" is what this machine has.
    """
    if name in _TEXT_TASKS:
        return f"Python {platform.python_version()}"
    if name in _TABLE_TASKS:
        return "full"
    is_fashion = _IMAGE_TASKS[name].images == "fashion-mnist"
    return _copy_of_fashion(data) if is_fashion else "full"


def _check_size(name: str, image_size: int | None, *, takes_any_size: bool) -> None:
    if image_size is not None and not takes_any_size:
        sized = ", ".join(
            key for key, row in _IMAGE_TASKS.items() if row.takes_any_size
        )
        raise ValueError(
            f"TaskLoader.load takes image_size for {sized} only; got image_size="
            f"{image_size} for {name}. Leave it out."
        )


def _copy_of_fashion(data: DataChoice) -> Literal["full", "embedded"]:
    """Return which copy of FashionMNIST "auto" means on this machine."""
    if data != "auto":
        return data
    return "full" if locate("fashion-mnist") else "embedded"
