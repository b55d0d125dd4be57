"""The named workloads, and the data that they load."""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

from optimizees import ImageData, build_task, load_cifar10, load_fashion_mnist, locate

from .workload import Workload, classify

DataChoice: TypeAlias = Literal["auto", "full", "embedded"]
PaperTask: TypeAlias = Literal["fashion-cnn", "cifar-cnn"]
"""The paper's training task and its test task."""
WorkloadName: TypeAlias = PaperTask
TrainSplit: TypeAlias = Literal["train", "train+validation"]
HeldOutSplit: TypeAlias = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A workload, and which data of it."""

    name: WorkloadName
    """The workload."""
    train_split: TrainSplit
    """What to train on."""
    held_out_split: HeldOutSplit
    """What to evaluate on."""
    batch_size: int
    """Examples a batch."""
    data: DataChoice
    """Which copy of FashionMNIST; other data sets have one copy."""


def load_workload(setting: Setting) -> Workload:
    """Load the data of a workload.

    Raises:
        FileNotFoundError: if data is asked for and not there.
    """
    match setting.name:
        case "fashion-cnn":
            data = settle(setting.data)
            train = load_fashion_mnist(setting.train_split, source=data)
            held_out = load_fashion_mnist(setting.held_out_split, source=data)
        case "cifar-cnn":
            train = load_cifar10(setting.train_split)
            held_out = load_cifar10(setting.held_out_split)
        case _:
            assert_never(setting.name)
    task = build_task(setting.name, train, setting.batch_size)
    return classify(task, held_out, source=describe(train, held_out))


def settle(data: DataChoice) -> Literal["full", "embedded"]:
    """Return which copy of FashionMNIST "auto" means on this machine."""
    if data != "auto":
        return data
    return "full" if locate("fashion-mnist") else "embedded"


def describe(train: ImageData, held_out: ImageData) -> str:
    """Say which data is trained and evaluated on, without the place where it lies."""
    kind = re.sub(r", [\d,]+ (training|validation|test) images.*\)", ")", train.source)
    return f"{kind}, {len(train):,} images to train on and {len(held_out):,} held out"
