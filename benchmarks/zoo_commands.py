"""`l2o data wild-park` and `l2o data cnn-zoo`: train populations of networks."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import torch
from tqdm import tqdm
from typing_extensions import override

from meta_train.provenance import provenance
from optimizees import ImageData, load_cifar10, load_fashion_mnist
from optimizees.data.cifar import MEAN, STD
from optimizees.devices import choose_device
from optimizees.shared_work import device_of_worker, in_processes
from optimizees.zoo.park_files import TrainedRun
from optimizees.zoo.park_training import ParkConfig
from optimizees.zoo.small_cnn_group import ZooConfig, ZooGroup
from optimizees.zoo.small_cnn_training import generate_zoo
from optimizees.zoo.wild_park import generate_park, missing_runs

from .runs import use_threads

_LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey image (ITU-R BT.601)."""

ImagesName: TypeAlias = Literal["cifar-10", "fashion-mnist"]


@dataclass(frozen=True, kw_only=True)
class _PopulationData(ABC):
    """What the networks of a population learn, and on what machine."""

    images: ImagesName = "cifar-10"
    """What the networks learn; a Small CNN Zoo sees it in grey."""
    image_size: int = 16
    """Side to which images are pooled, in pixels; must divide theirs."""
    threads: int = 1
    """CPU threads of each process."""
    device: str = "auto"
    """What trains: auto, cpu, cuda or mps; auto takes a GPU where there is one."""
    workers: int = 1
    """Processes that share the networks. The same command may be started further times,
    also by torchrun or on machines that share the folder; GPUs are taken in turn."""

    dest: Path
    """Directory to fill."""

    verb: ClassVar[str]
    """Name of the verb of `l2o data`."""

    def __post_init__(self) -> None:
        counts = ("num_train", "num_test", "networks")
        for name in ("image_size", "threads", "workers", *counts):
            count = getattr(self, name)
            if count < 1:
                option = name.replace("_", "-")
                raise ValueError(
                    f"{self.verb} needs at least one for {option}; got {count}. Raise "
                    f"--{option}."
                )

    def run(self) -> None:
        """Train the networks that are missing."""
        self.fill(print)

    def fill(self, announce: Callable[[str], object]) -> None:
        """Train the networks that are missing, in as many processes as asked for.

        Args:
            announce: called with a line about what was trained.

        Raises:
            FileNotFoundError: if the images are not there.
            ValueError: if the directory holds networks that were trained otherwise, or
                the device is not there.
        """
        in_processes(self.train, self.workers, announce, owner=self.verb)
        announce(f"The networks are in {self.dest}.")

    @abstractmethod
    def train(
        self, announce: Callable[[str], object], *, worker: int | None = None
    ) -> None:
        """Train networks until all are there, in this process.

        Args:
            announce: as for `fill`.
            worker: number of this process; None if it is the only one.
        """

    def prepare(
        self, num_train: int, num_test: int, worker: int | None
    ) -> tuple[torch.device, ImageData, ImageData]:
        """Set the threads; return the device, and images to train and to test on.

        Args:
            num_train: images to train on.
            num_test: images to test on.
            worker: number of this process, which decides its GPU.

        Raises:
            FileNotFoundError: if the images are not there.
            ValueError: if the device is not there.
        """
        use_threads(self.threads)
        device = device_of_worker(choose_device(self.device), worker)
        train = pooled_images(self.images, "train", num_train, self.image_size)
        test = pooled_images(self.images, "test", num_test, self.image_size)
        return device, train, test


@dataclass(frozen=True, kw_only=True)
class WildParkData(_PopulationData):
    """Train the networks of a CNN Wild Park; those that are there stay.

    One file per network holds its checkpoints and their accuracies on the test images.
    Stop it at any time: the same command goes on.
    """

    num_train: int = 1500
    """Training images, the first ones."""
    num_test: int = 1000
    """Test images, the first ones."""
    networks: int = 320
    """How many networks."""
    first: int = 0
    """Number of the first one."""
    park: ParkConfig = field(default_factory=ParkConfig)
    """How they are trained."""
    dest: Path = Path("runs/park/cifar-10")
    """Directory to fill."""

    verb: ClassVar = "wild-park"

    @override
    def train(
        self, announce: Callable[[str], object], *, worker: int | None = None
    ) -> None:
        device, train, test = self.prepare(self.num_train, self.num_test, worker)
        indices = range(self.first, self.first + self.networks)
        missing = len(missing_runs(self.dest, indices))
        announce(
            f"{missing} of {self.networks} networks to train on {len(train):,} images "
            f"of {train.source}, tested on {len(test):,}, on {device}"
        )
        is_hidden = None if worker is None else True
        with tqdm(total=missing, desc="networks", disable=is_hidden) as bar:

            def show(run: TrainedRun) -> None:
                bar.update()
                if not bar.disable:
                    return
                best = f"{run.accuracies.max().item():.1%}" if len(run) else "none"
                announce(
                    f"network {run.index}: {len(run)} checkpoints, best test accuracy "
                    f"{best}, {len(run.architecture.layers)} convolutions, "
                    f"learning rate {run.facts['learning_rate']:.1e}"
                )

            generate_park(
                self.dest,
                self.park,
                train.to(device),
                test.to(device),
                indices=indices,
                origin={"provenance": provenance()},
                announce=show,
            )


@dataclass(frozen=True, kw_only=True)
class CnnZooData(_PopulationData):
    """Train a Small CNN Zoo: CNNs of one architecture, in the published file layout.

    Networks are trained many at once. Stop it at any time: the same command goes on.
    """

    num_train: int = 2048
    """Training images, the first ones."""
    num_test: int = 3000
    """Test images, the first ones."""
    networks: int = 1600
    """How many networks."""
    zoo: ZooConfig = field(default_factory=ZooConfig)
    """How they are trained."""
    dest: Path = Path("runs/zoo/cifar-10-grey")
    """Directory to fill."""

    verb: ClassVar = "cnn-zoo"

    @override
    def train(
        self, announce: Callable[[str], object], *, worker: int | None = None
    ) -> None:
        device, train, test = self.prepare(self.num_train, self.num_test, worker)
        announce(
            f"{self.networks} networks to train on {len(train):,} images of "
            f"{train.source}, tested on {len(test):,}, on {device}"
        )
        is_hidden = None if worker is None else True
        with tqdm(total=self.networks, desc="networks", disable=is_hidden) as bar:

            def show(done: int, group: ZooGroup) -> None:
                bar.update(done - bar.n)
                if bar.disable:
                    scores = group.accuracies[-1]
                    low, high = scores.min().item(), scores.max().item()
                    announce(
                        f"{done} of {self.networks} networks; of the last "
                        f"{len(scores)} the test accuracy is {low:.1%} to {high:.1%}, "
                        f"median {scores.median().item():.1%}"
                    )

            generate_zoo(
                self.dest,
                self.zoo,
                grey(train).to(device),
                grey(test).to(device),
                num_networks=self.networks,
                origin={"provenance": provenance()},
                announce=show,
            )


def pooled_images(
    name: ImagesName, split: Literal["train", "test"], count: int, size: int
) -> ImageData:
    """Load the first images of a split, pooled.

    Args:
        name: which data set.
        split: which part of it.
        count: how many images.
        size: side in pixels.

    Returns:
        Images whose `source` says what they are, but not where they lie.
    """
    load = load_cifar10 if name == "cifar-10" else load_fashion_mnist
    images = load(split)
    kind = re.sub(r",? ?[\d,]+ \w+ images.*", ")", images.source).removesuffix(" ()")
    side = images.images.shape[-1]
    pooled = images.subset(0, count).pooled(size)
    sentence = f"{kind}, {side} x {side} pixels pooled to {size} x {size}"
    return replace(pooled, source=sentence)


def grey(images: ImageData) -> ImageData:
    """Return the luminance of colour images, of mean about 0 and deviation about 1.

    Args:
        images: normalised as CIFAR-10 is; grey ones come back as they are.
    """
    if images.images.shape[1] == 1:
        return images
    shape = (3, 1, 1)
    std, mean = torch.tensor(STD).view(shape), torch.tensor(MEAN).view(shape)
    pixels = images.images * std + mean
    share = torch.tensor(_LUMINANCE).view(shape)
    luminance = (share * pixels).sum(1, keepdim=True)
    middle, spread = (share * mean).sum(), (share * std).sum()
    return replace(
        images, images=(luminance - middle) / spread, source=f"{images.source}, grey"
    )
