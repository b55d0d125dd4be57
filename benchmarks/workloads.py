"""The named workloads, and the data that they load."""

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias, assert_never

import torch
from torch import nn

from optimizees import (
    MLP,
    Batch,
    BatchSampler,
    ImageData,
    build_task,
    load_cifar10,
    load_fashion_mnist,
    locate,
)
from optimizees.autoencoder import Autoencoder
from optimizees.data.digits import load_digits
from optimizees.data.text import TextSampler, load_manual
from optimizees.preactivation import PreActivationNet
from optimizees.transformer import GPT, ViT

from .workload import Batches, Workload, classify, cut

DataChoice: TypeAlias = Literal["auto", "full", "embedded"]
PaperTask: TypeAlias = Literal["fashion-cnn", "cifar-cnn"]
"""The paper's training task and its test task."""
HeldOutTask: TypeAlias = Literal[
    "digits-mlp", "fashion-autoencoder", "text-gpt", "cifar-resnet", "cifar-vit"
]
"""Networks, and partly data, that no rule was trained on."""
WorkloadName: TypeAlias = PaperTask | HeldOutTask
TrainSplit: TypeAlias = Literal["train", "train+validation"]
HeldOutSplit: TypeAlias = Literal["validation", "test"]
LoadImages: TypeAlias = Callable[[TrainSplit | HeldOutSplit], ImageData]

_CONTEXT = 64
"""Characters that the language model sees."""


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
        case "fashion-cnn" | "cifar-cnn":
            is_cifar = setting.name == "cifar-cnn"
            load = load_cifar10 if is_cifar else _fashion_loader(setting.data)
            train, held_out = _load_both(setting, load)
            task = build_task(setting.name, train, setting.batch_size)
            return classify(task, held_out, source=describe(train, held_out))
        case "digits-mlp":
            build = partial(MLP, (784, 128, 64, 10))
            return _image_workload(setting, load_digits, build)
        case "cifar-resnet":
            build = partial(PreActivationNet, units=1)
            return _image_workload(setting, load_cifar10, build)
        case "cifar-vit":
            build = partial(
                ViT,
                image_size=32,
                patch_size=4,
                width=48,
                num_blocks=3,
                num_heads=3,
                num_classes=10,
            )
            return _image_workload(setting, load_cifar10, build)
        case "fashion-autoencoder":
            load = _fashion_loader(setting.data)
            return _restore(_image_workload(setting, load, partial(Autoencoder, 784)))
        case "text-gpt":
            return _text_workload(setting)
        case _:
            assert_never(setting.name)


def settle(name: WorkloadName, data: DataChoice) -> str:
    """Return what tells the data of a workload from other data of that name.

    Args:
        name: the workload.
        data: which copy of FashionMNIST; "auto" is what this machine has.
    """
    match name:
        case "fashion-cnn" | "fashion-autoencoder":
            return _fashion_source(data)
        case "cifar-cnn" | "cifar-resnet" | "cifar-vit" | "digits-mlp":
            return "full"
        case "text-gpt":
            return f"Python {platform.python_version()}"
        case _:
            assert_never(name)


def describe(train: ImageData, held_out: ImageData) -> str:
    """Say which data is trained and evaluated on, without the place where it lies."""
    kind = re.sub(r",? ?[\d,]+ \w+ images.*", ")", train.source).removesuffix(" ()")
    return f"{kind}, {len(train):,} images to train on and {len(held_out):,} held out"


class _Restored:
    """Batches whose targets are their inputs."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def next(self) -> Batch:
        inputs = self._batches.next().inputs
        return Batch(inputs, inputs)


def _restore(workload: Workload) -> Workload:
    """Return the same images, to be restored in place of classified."""
    return replace(
        workload,
        batches=lambda seed: _Restored(workload.batches(seed)),
        held_out=[Batch(inputs, inputs) for inputs, _ in workload.held_out],
        criterion="squared error",
    )


def _image_workload(
    setting: Setting, load: LoadImages, build: Callable[[], nn.Module]
) -> Workload:
    """Return a workload of images and classes."""
    train, held_out = _load_both(setting, load)
    return Workload(
        name=setting.name,
        source=describe(train, held_out),
        init_model=partial(_init_model, build),
        batches=partial(BatchSampler, train, setting.batch_size),
        held_out=cut(Batch(held_out.images, held_out.labels)),
    )


def _text_workload(setting: Setting) -> Workload:
    """Return a workload of characters to be foreseen."""
    train, held_out = (
        load_manual(setting.train_split),
        load_manual(setting.held_out_split),
    )
    build = partial(
        GPT,
        vocabulary=len(train.vocabulary),
        context=_CONTEXT,
        width=64,
        num_blocks=3,
        num_heads=4,
    )
    kind = train.source.partition(" (")[0]
    return Workload(
        name=setting.name,
        source=f"{kind}, {len(train.tokens):,} characters to train on and "
        f"{len(held_out.tokens):,} held out",
        init_model=partial(_init_model, build),
        batches=partial(TextSampler, train, setting.batch_size, _CONTEXT),
        held_out=cut(held_out.windows(_CONTEXT), 100),
    )


def _init_model(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build the network of a seed; torch's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def _load_both(setting: Setting, load: LoadImages) -> tuple[ImageData, ImageData]:
    """Load what to train on and what to evaluate on."""
    return load(setting.train_split), load(setting.held_out_split)


def _fashion_loader(data: DataChoice) -> LoadImages:
    return partial(load_fashion_mnist, source=_fashion_source(data))


def _fashion_source(data: DataChoice) -> Literal["full", "embedded"]:
    """Return which copy of FashionMNIST "auto" means on this machine."""
    if data != "auto":
        return data
    return "full" if locate("fashion-mnist") else "embedded"
