"""`l2o data siren-fits`: fit a network to each image of a data set."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from benchmarks.runs import use_threads
from l2o.files import write_whole
from meta_train.provenance import provenance
from optimizees.data.grey_images import PARTS, PixelsName, read_pixels
from optimizees.devices import choose_device
from optimizees.files import holds_tensors
from optimizees.shared_work import Locks, device_of_worker, in_processes, share_out
from optimizees.siren import render_images
from optimizees.zoo.inr_set import (
    InrSet,
    pack_fits,
    part_files,
    read_fits,
    read_header,
)
from optimizees.zoo.siren_fits import AT_ONCE, FitConfig, fit_sirens, initial_weights

from .pictures import draw_rows

_TITLES: dict[PixelsName, str] = {
    "mnist-test": "SIREN fits of MNIST's test digits",
    "fashion-train": "SIREN fits of FashionMNIST's training images",
    "fashion-test": "SIREN fits of FashionMNIST's test images",
}
_DRAWN = 12
"""Images in the picture, the first ones."""


@dataclass(frozen=True, kw_only=True)
class SirenFitsData:
    """Fit a small network with sines to each image; files that are there stay.

    Stop it at any time: the same command continues. More images can be added later.
    """

    images: PixelsName = "mnist-test"
    """What is fitted."""
    count: int = 10_000
    """How many images, the first ones."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How they are fitted."""
    file_size: int = 200
    """Networks per file; an interrupt loses at most one file's work."""
    threads: int = 1
    """CPU threads of each process."""
    device: str = "auto"
    """What fits: auto, cpu, cuda or mps; auto takes a GPU where there is one."""
    workers: int = 1
    """Processes that share the files. The same command may be started further times,
    also by torchrun or on machines that share the folder; GPUs are taken in turn."""
    dest: Path | None = None
    """Folder to fill; by default runs/inr and the name of the images."""
    summary: Path | None = None
    """Where the summary goes, as NAME.json and a picture NAME.png; by default into the
    folder."""

    def __post_init__(self) -> None:
        if min(self.count, self.file_size) < 1 or self.count % self.file_size:
            raise ValueError(
                "siren-fits needs a count of whole files, so that more can be added; "
                f"got count={self.count} in files of {self.file_size}. Choose a "
                "multiple."
            )

    def run(self) -> None:
        """Make the files that are missing."""
        run_siren_fits(self, print)


def run_siren_fits(
    config: SirenFitsData, announce: Callable[[str], object]
) -> dict[str, Any]:
    """Do what `l2o data siren-fits` asks for.

    Args:
        config: the command.
        announce: called with one line per file unless there is a progress bar.

    Returns:
        The summary: how many networks, how close they come, what it took.

    Raises:
        FileNotFoundError: if the images are not there.
        ValueError: if there are fewer images than asked for, the folder holds networks
            that were fitted otherwise, or the device is not there.
    """
    work = partial(_make_parts, config)
    in_processes(work, config.workers, announce, owner="siren-fits")
    return _summarise(config, _folder(config), announce)


def _make_parts(
    config: SirenFitsData,
    announce: Callable[[str], object],
    *,
    worker: int | None,
) -> None:
    """Make files until all are there, in this process."""
    from tqdm import tqdm

    use_threads(config.threads)
    device = device_of_worker(choose_device(config.device), worker)
    images, labels = read_pixels(config.images)
    if config.count > len(images):
        raise ValueError(
            f"siren-fits needs a count of at most {len(images):,} for "
            f"{config.images}; got {config.count:,}. Lower it."
        )
    folder = _folder(config)
    _check_same(config, folder)
    starts = range(0, config.count, config.file_size)

    def find_missing() -> list[int]:
        return [start for start in starts if not holds_tensors(_part(folder, start))]

    missing = len(find_missing())
    announce(f"{missing} of {len(starts)} files of {folder} are to be made on {device}")
    is_hidden = None if worker is None else True
    with tqdm(total=missing, desc=config.images, unit="file", disable=is_hidden) as bar:

        def make(start: int) -> None:
            if holds_tensors(_part(folder, start)):  # another process was faster
                return
            stop = min(start + config.file_size, config.count)
            line = _make_part(config, folder, device, images, labels, start, stop)
            bar.update()
            if bar.disable:
                announce(line)

        share_out(find_missing, make, locks=Locks(folder))


def _folder(config: SirenFitsData) -> Path:
    return config.dest or Path("runs/inr") / config.images


def _make_part(
    config: SirenFitsData,
    folder: Path,
    device: torch.device,
    images: UInt8[Tensor, "N 28 28"],
    labels: UInt8[Tensor, " N"],
    start: int,
    stop: int,
) -> str:
    """Fit the images of one file and write it; return a line about it."""
    started = time.perf_counter(), time.process_time()
    part = PARTS.index(config.images)
    draws = [initial_weights(config.fit, part, index) for index in range(start, stop)]
    wanted = images[start:stop]
    networks, errors = fit_sirens((wanted.float() / 255).to(device), draws, config.fit)
    fits = InrSet(
        networks={name: weight.cpu() for name, weight in networks.items()},
        labels=labels[start:stop].long(),
        indices=torch.arange(start, stop),
        images=wanted,
        errors=errors.cpu(),
        source=_TITLES[config.images],
    )
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    header = {
        "source": _TITLES[config.images],
        "images": config.images,
        "fit": asdict(config.fit),
        "at_once": AT_ONCE,
        "device": device.type,
        "seconds": round(seconds[0], 3),
        "cpu_seconds": round(seconds[1], 3),
        "provenance": provenance(),
    }
    write_whole(_part(folder, start), pack_fits(fits, header))
    return (
        f"{config.images} {start:,} to {stop - 1:,}: PSNR {fits.psnr().mean():.2f} dB, "
        f"{seconds[0] / (stop - start):.3f} s per image, of which "
        f"{seconds[1] / (stop - start):.3f} s of CPU time"
    )


def _part(folder: Path, start: int) -> Path:
    return folder / f"part-{start:06d}.safetensors"


def _check_same(config: SirenFitsData, folder: Path) -> None:
    """Raise unless the folder's files were made as this command would make them."""
    wanted = {"images": config.images, "fit": asdict(config.fit)}
    for path in filter(holds_tensors, part_files(folder)):
        header = read_header(path)
        found = {name: header.get(name) for name in wanted}
        start = int(path.stem.removeprefix("part-"))
        if found != wanted or start % config.file_size:
            raise ValueError(
                f"siren-fits needs a folder of its own for other settings; got {path} "
                f"with {found}, wanted {wanted} in files of {config.file_size}. Pass "
                "another --dest, or the same settings."
            )


def _summarise(
    config: SirenFitsData, folder: Path, announce: Callable[[str], object]
) -> dict[str, Any]:
    """Write summary and picture of all fits in the folder."""
    fits = read_fits(folder)
    headers = [read_header(path) for path in part_files(folder)]
    psnr = fits.psnr().double()
    weights = {
        name: round(float(weight.double().std()), 4)
        for name, weight in fits.networks.items()
    }
    summary = {
        "images": config.images,
        "networks": len(fits),
        "psnr_mean_db": round(float(psnr.mean()), 3),
        "psnr_std_db": round(float(psnr.std(correction=0)), 3),
        "psnr_lowest_db": round(float(psnr.min()), 3),
        "psnr_5_percent_db": round(float(psnr.quantile(0.05)), 3),
        "cpu_seconds_a_network": round(
            sum(header["cpu_seconds"] for header in headers) / len(fits), 4
        ),
        "parameter_std": weights,
        "fit": asdict(config.fit),
        "commits": sorted({header["provenance"]["commit"] for header in headers}),
        "provenance": headers[-1]["provenance"],
    }
    base = config.summary or folder / "summary"
    text = json.dumps(summary, indent=1) + "\n"
    write_whole(base.with_suffix(".json"), text.encode())
    write_whole(base.with_suffix(".png"), _picture(fits))
    announce(
        f"{len(fits):,} networks, PSNR {summary['psnr_mean_db']:.2f} dB on average, "
        f"{summary['psnr_lowest_db']:.2f} at worst, "
        f"{summary['cpu_seconds_a_network']:.3f} s of CPU time each"
    )
    announce(f"Written: {base.with_suffix('.json')}, {base.with_suffix('.png')}")
    return summary


def _picture(fits: InrSet) -> bytes:
    """Draw the first images above the images that their networks show."""
    assert fits.images is not None
    few = {name: weight[:_DRAWN] for name, weight in fits.networks.items()}
    return draw_rows(
        {
            "image": fits.images[:_DRAWN] / 255,
            "network": render_images(few),
            "4 x as fine": render_images(few, 112),
        }
    )
