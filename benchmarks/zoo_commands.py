"""`l2o data wild-park` and `l2o data cnn-zoo`: train populations of networks."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from tqdm import tqdm

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
class _PopulationData:
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

    def _check_counts(self, verb: str, *names: str) -> None:
        """Raise unless each of these settings is positive."""
        for name in ("image_size", "threads", "workers", *names):
            count = getattr(self, name)
            if count < 1:
                option = name.replace("_", "-")
                raise ValueError(
                    f"{verb} needs at least one for {option}; got {count}. Raise "
                    f"--{option}."
                )

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

    def __post_init__(self) -> None:
        self._check_counts("wild-park", "num_train", "num_test", "networks")

    def run(self) -> None:
        """Train the networks that are missing."""
        run_wild_park(self, print)


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

    def __post_init__(self) -> None:
        self._check_counts("cnn-zoo", "num_train", "num_test", "networks")

    def run(self) -> None:
        """Train the networks that are missing."""
        run_cnn_zoo(self, print)


def run_wild_park(config: WildParkData, announce: Callable[[str], object]) -> None:
    """Do what `l2o data wild-park` asks for.

    Args:
        config: the command.
        announce: called with a line about every network.

    Raises:
        FileNotFoundError: if the images are not there.
        ValueError: if the directory holds a park that was trained otherwise, or the
            device is not there.
    """
    work = partial(_train_park, config)
    in_processes(work, config.workers, announce, owner="wild-park")
    announce(f"The park is in {config.dest}.")


def _train_park(
    config: WildParkData,
    announce: Callable[[str], object],
    *,
    worker: int | None,
) -> None:
    """Train networks of a park until all are there, in this process."""
    device, train, test = config.prepare(config.num_train, config.num_test, worker)
    indices = range(config.first, config.first + config.networks)
    missing = len(missing_runs(config.dest, indices))
    announce(
        f"{missing} of {config.networks} networks to train on {len(train):,} images of "
        f"{train.source}, tested on {len(test):,}, on {device}"
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
                f"{best}, {len(run.architecture.layers)} convolutions, learning rate "
                f"{run.facts['learning_rate']:.1e}"
            )

        generate_park(
            config.dest,
            config.park,
            train.to(device),
            test.to(device),
            indices=indices,
            origin={"provenance": provenance()},
            announce=show,
        )


def run_cnn_zoo(config: CnnZooData, announce: Callable[[str], object]) -> None:
    """Do what `l2o data cnn-zoo` asks for.

    Args:
        config: the command.
        announce: called with a line about networks that were trained together.

    Raises:
        FileNotFoundError: if the images are not there.
        ValueError: if the directory holds a zoo that was trained otherwise, or the
            device is not there.
    """
    work = partial(_train_zoo, config)
    in_processes(work, config.workers, announce, owner="cnn-zoo")
    announce(f"The zoo is in {config.dest}.")


def _train_zoo(
    config: CnnZooData,
    announce: Callable[[str], object],
    *,
    worker: int | None,
) -> None:
    """Train networks of a zoo until all are there, in this process."""
    device, train, test = config.prepare(config.num_train, config.num_test, worker)
    announce(
        f"{config.networks} networks to train on {len(train):,} images of "
        f"{train.source}, tested on {len(test):,}, on {device}"
    )
    is_hidden = None if worker is None else True
    with tqdm(total=config.networks, desc="networks", disable=is_hidden) as bar:

        def show(done: int, group: ZooGroup) -> None:
            bar.update(done - bar.n)
            if bar.disable:
                scores = group.accuracies[-1]
                announce(
                    f"{done} of {config.networks} networks; of the last "
                    f"{len(scores)} the test accuracy is {scores.min().item():.1%} to "
                    f"{scores.max().item():.1%}, median {scores.median().item():.1%}"
                )

        generate_zoo(
            config.dest,
            config.zoo,
            grey(train).to(device),
            grey(test).to(device),
            num_networks=config.networks,
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
