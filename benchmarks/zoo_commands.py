"""`l2o data wild-park` and `l2o data cnn-zoo`: train populations of networks."""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, TypeAlias

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


Show: TypeAlias = Callable[[int, str], None]
"""Takes the number of networks that are there, and a line about the last ones."""


class Images(NamedTuple):
    """What a population is trained and tested on."""

    train: ImageData
    test: ImageData
    device: torch.device
    """Where the networks are trained; the images have yet to be moved there."""


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

    num_train: int
    """Training images, the first ones."""
    num_test: int
    """Test images, the first ones."""
    networks: int
    """How many networks."""
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
        in_processes(self._fill_as, self.workers, announce, owner=self.verb)
        announce(f"The networks are in {self.dest}.")

    def _fill_as(
        self, announce: Callable[[str], object], *, worker: int | None
    ) -> None:
        """Train networks until all are there, in one process of that number."""
        use_threads(self.threads)
        device = device_of_worker(choose_device(self.device), worker)
        train = pooled_images(self.images, "train", self.num_train, self.image_size)
        test = pooled_images(self.images, "test", self.num_test, self.image_size)
        announce(
            f"{self.num_missing} of {self.networks} networks to train on "
            f"{len(train):,} images of {train.source}, tested on {len(test):,}, "
            f"on {device}"
        )
        is_hidden = None if worker is None else True
        with tqdm(total=self.networks, desc="networks", disable=is_hidden) as bar:

            def show(done: int, line: str) -> None:
                bar.update(done - bar.n)
                if bar.disable:
                    announce(line)

            self.train(Images(train, test, device), show)

    @property
    def num_missing(self) -> int:
        """Networks that have yet to be trained, at most."""
        return self.networks

    @abstractmethod
    def train(self, images: Images, show: Show) -> None:
        """Train networks until all are there, in this process; show each."""


@dataclass(frozen=True, kw_only=True)
class WildParkData(_PopulationData):
    """Train the networks of a CNN Wild Park; those that are there stay.

    One file per network holds its checkpoints and their accuracies on the test images.
    Stop it at any time: the same command goes on.
    """

    num_train: int = 1500
    num_test: int = 1000
    networks: int = 320
    first: int = 0
    """Number of the first one."""
    park: ParkConfig = field(default_factory=ParkConfig)
    """How they are trained."""
    dest: Path = Path("runs/park/cifar-10")

    verb: ClassVar = "wild-park"

    @property
    @override
    def num_missing(self) -> int:
        return len(missing_runs(self.dest, self._indices))

    @property
    def _indices(self) -> range:
        return range(self.first, self.first + self.networks)

    @override
    def train(self, images: Images, show: Show) -> None:
        done = itertools.count(self.networks - self.num_missing + 1)
        generate_park(
            self.dest,
            self.park,
            images.train.to(images.device),
            images.test.to(images.device),
            indices=self._indices,
            origin={"provenance": provenance()},
            announce=lambda run: show(next(done), _described(run)),
        )


@dataclass(frozen=True, kw_only=True)
class CnnZooData(_PopulationData):
    """Train a Small CNN Zoo: CNNs of one architecture, in the published file layout.

    Networks are trained many at once. Stop it at any time: the same command goes on.
    """

    num_train: int = 2048
    num_test: int = 3000
    networks: int = 1600
    zoo: ZooConfig = field(default_factory=ZooConfig)
    """How they are trained."""
    dest: Path = Path("runs/zoo/cifar-10-grey")

    verb: ClassVar = "cnn-zoo"

    @override
    def train(self, images: Images, show: Show) -> None:
        def show_group(done: int, group: ZooGroup) -> None:
            scores = group.accuracies[-1]
            show(
                done,
                f"{done} of {self.networks} networks; of the last {len(scores)} the "
                f"test accuracy is {scores.min().item():.1%} to "
                f"{scores.max().item():.1%}, median {scores.median().item():.1%}",
            )

        generate_zoo(
            self.dest,
            self.zoo,
            grey(images.train).to(images.device),
            grey(images.test).to(images.device),
            num_networks=self.networks,
            origin={"provenance": provenance()},
            announce=show_group,
        )


def _described(run: TrainedRun) -> str:
    """Return a line about a network of a park."""
    best = f"{run.accuracies.max().item():.1%}" if len(run) else "none"
    return (
        f"network {run.index}: {len(run)} checkpoints, best test accuracy {best}, "
        f"{len(run.architecture.layers)} convolutions, learning rate "
        f"{run.facts['learning_rate']:.1e}"
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
