"""Loads named tasks: their data, once per split, and their networks."""

import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Literal, TypeAlias, assert_never

import torch
from torch.utils._pytree import tree_map

from .batches import BatchSampler, cut, num_examples
from .data.cifar import load_cifar10
from .data.digits import load_digits
from .data.fashion_mnist import load_fashion_mnist
from .data.images import ImageData
from .data.layouts import locate
from .data.scikit import Examples
from .data.splits import HeldOutSplit, Split, TrainSplit
from .data.text import TextData, load_manual
from .image_tasks import image_task
from .named_tasks import (
    TASKS,
    ImagesName,
    ImageTask,
    TableTask,
    TaskName,
    TextTask,
)
from .task import Task, restoring
from .text_tasks import text_task

DataChoice: TypeAlias = Literal["auto", "full", "embedded"]
"""Which copy of FashionMNIST; other data sets have one copy."""


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
        row = TASKS[name]
        _check_size(name, image_size)
        match row:
            case ImageTask():
                train = self.images(row.images, train_split, image_size)
                build = partial(row.build, train.images.shape[1:])
                parts = {
                    split: self.images(row.images, split, image_size)
                    for split in held_out
                }
                task = image_task(
                    name, build, train, batch_size=batch_size, held_out=parts
                )
                return restoring(task) if row.restores else task
            case TextTask():
                text = self._text(train_split)
                return text_task(
                    name,
                    partial(row.build, len(text.vocabulary)),
                    text,
                    batch_size=batch_size,
                    context=row.context,
                    held_out={split: self._text(split) for split in held_out},
                )
            case TableTask():
                table = self._table(row, train_split)
                splits = {split: self._table(row, split) for split in held_out}
                batches = partial(BatchSampler, table.data, batch_size)
                batches(0)  # refuses an impossible batch size now
                return Task(
                    name=name,
                    build_model=row.build,
                    batches=batches,
                    criterion=row.criterion,
                    metric=row.metric,
                    held_out={
                        split: cut(found.data) for split, found in splits.items()
                    },
                    source=_described(table, splits),
                    device=self.device,
                )
            case _:
                assert_never(row)

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

    def _read_table(self, row: TableTask, split: Split) -> Examples:
        found = row.read(split)
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


def data_identity(name: TaskName, data: DataChoice) -> str:
    """Return what distinguishes the data of a task from other data of that name.

    Args:
        name: the task.
        data: which copy of FashionMNIST; "auto" is what this machine has.
    """
    match TASKS[name]:
        case TextTask():
            return f"Python {platform.python_version()}"
        case ImageTask(images="fashion-mnist"):
            return _copy_of_fashion(data)
        case _:
            return "full"


def _described(train: Examples, held_out: Mapping[str, Examples]) -> str:
    """Return which data a task has, and how many examples."""
    words = f"{train.source}, {num_examples(train.data):,} examples to train on"
    first = next(iter(held_out.values()), None)
    if first is None:
        return words
    return f"{words} and {num_examples(first.data):,} held out"


def _check_size(name: TaskName, image_size: int | None) -> None:
    sized = [
        key
        for key, row in TASKS.items()
        if isinstance(row, ImageTask) and row.takes_any_size
    ]
    if image_size is not None and name not in sized:
        raise ValueError(
            f"TaskLoader.load takes image_size for {', '.join(sized)} only; got "
            f"image_size={image_size} for {name}. Leave it out."
        )


def _copy_of_fashion(data: DataChoice) -> Literal["full", "embedded"]:
    """Return which copy of FashionMNIST "auto" means on this machine."""
    if data != "auto":
        return data
    return "full" if locate("fashion-mnist") else "embedded"
