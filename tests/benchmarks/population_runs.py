"""Make a small population of made-up images; run as a script, it may be killed."""

import sys
from pathlib import Path

import torch

from benchmarks import zoo_commands
from benchmarks.inr import fits
from benchmarks.zoo_commands import CnnZooData, WildParkData
from optimizees import ImageData
from optimizees.zoo.park_training import ParkConfig
from optimizees.zoo.siren_fits import FitConfig
from optimizees.zoo.small_cnn_group import ZooConfig

SHARED = {"networks": 6, "num_train": 80, "num_test": 20, "device": "cpu"}


def make_images(count, channels):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, channels, 16, 16, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return ImageData(pixels, labels, source="noise")


def make_pixels(name):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 28, 28), generator=generator, dtype=torch.uint8)
    return pixels, torch.zeros(12, dtype=torch.uint8)


def make(kind, folder, **changes):
    """Run a command on images that are made up."""
    zoo_commands.pooled_images = lambda name, split, count, size: make_images(count, 3)
    fits.read_pixels = make_pixels
    if kind == "park":
        config = ParkConfig(epochs=(12, 16), batch_size=8)
        command = WildParkData(dest=folder, park=config, **SHARED | changes)
    elif kind == "zoo":
        config = ZooConfig(checkpoints=(0, 4), batch_size=8, at_once=1)
        command = CnnZooData(dest=folder, zoo=config, **SHARED | changes)
    else:
        settings = {"count": 12, "file_size": 2, "device": "cpu"} | changes
        command = fits.SirenFitsData(dest=folder, fit=FitConfig(steps=100), **settings)
    command.run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(sys.argv[1], Path(sys.argv[2]))
