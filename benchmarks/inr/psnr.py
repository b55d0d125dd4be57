"""How close fits come to their images, by steps, step size and last layer."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.report import github_table, origin_of, rows_report
from benchmarks.runs import RESULTS, Row, config_values, use_threads
from meta_train.log import write_json_lines
from meta_train.provenance import provenance
from optimizees.data.grey_images import PARTS, PixelsName, read_pixels
from optimizees.devices import choose_device
from optimizees.siren import LastLayer
from optimizees.zoo.siren_fits import FitConfig, fit_sirens, initial_weights

PUBLISHED = {
    "mnist": (0.0628, 0.0183, 0.1179, 0.0213, 0.0110, 0.0999),
    "fashion": (0.0782, 0.0324, 0.1345, 0.0286, 0.0167, 0.0960),
}
"""Standard deviations of weights, then of biases, layer by layer, in the networks of
Navon et al., as the paper's released code has them."""


ROWS = RESULTS / "siren-psnr.jsonl"


@dataclass(frozen=True, kw_only=True)
class SirenPsnrConfig:
    """Fit a few images in several ways: which steps are worth their time?"""

    images: tuple[PixelsName, ...] = ("mnist-test", "fashion-train")
    """What is fitted, the first images of each."""
    networks: int = 16
    """How many images of each."""
    steps: tuple[int, ...] = (125, 250, 500, 1000, 2000)
    """Numbers of steps."""
    lrs: tuple[float, ...] = (5e-4, 1e-3)
    """Step sizes of Adam."""
    last_layers: tuple[LastLayer, ...] = ("sine", "linear")
    """How the last layer is drawn."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    results: Path = ROWS
    """JSON lines file, replaced by each run; `.md` is written with its name."""


CONFIG = SirenPsnrConfig()


def run(config: SirenPsnrConfig, announce: Callable[[str], object]) -> None:
    """Fit every setting; write one row each."""
    use_threads(config.threads)
    place = choose_device(config.device)
    origin = {"config": config_values(config), "provenance": provenance()}
    rows = []
    for name in config.images:
        pixels = read_pixels(name)[0][: config.networks].to(place) / 255
        ways = product(config.last_layers, config.lrs, config.steps)
        for last_layer, lr, steps in ways:
            fit = FitConfig(steps=steps, lr=lr, last_layer=last_layer)
            draws = [
                initial_weights(fit, PARTS.index(name), index)
                for index in range(len(pixels))
            ]
            networks, errors = fit_sirens(pixels, draws, fit)
            psnr = float((-10 * errors.double().log10()).mean())
            rows.append(
                {
                    "images": name,
                    "last_layer": last_layer,
                    "lr": lr,
                    "steps": steps,
                    "psnr_mean_db": round(psnr, 2),
                    "deviations": {
                        key: round(float(weight.double().std()), 4)
                        for key, weight in networks.items()
                    },
                    **origin,
                }
            )
            announce(f"{name}, {last_layer}, lr {lr:g}, {steps} steps: {psnr:.2f} dB")
    write_json_lines(config.results, rows)
    announce(report(config.results))


def _page(rows: list[Row]) -> list[str]:
    """Say what was measured, and how."""
    lines = [
        (
            row["images"],
            row["last_layer"],
            f"{row['lr']:g}",
            f"{row['steps']:,}",
            f"{row['psnr_mean_db']:.2f}",
            *(f"{value:.4f}" for value in _in_order(row["deviations"])),
        )
        for row in rows
    ]
    count = rows[0]["config"]["networks"]
    lines += [
        (f"{name}, published", "", "", "", "", *(f"{value:.4f}" for value in found))
        for name, found in PUBLISHED.items()
    ]
    headers = (
        *("images", "last layer", "lr", "steps", "mean PSNR, dB"),
        *(f"std W{layer}" for layer in (1, 2, 3)),
        *(f"std b{layer}" for layer in (1, 2, 3)),
    )
    return [
        "# Fitting an image with 1,185 parameters",
        f"SIREN 2-32-32-1, Adam on all pixels; the first {count} images of each set. "
        "*sine*: the last layer is drawn like the others; "
        "*linear*: as `nn.Linear` draws it. Behind them standard deviations of weights "
        "and biases, layer by layer, and those of the networks of Navon et al.",
        github_table(lines, headers),
        origin_of(rows),
    ]


report = rows_report("l2o benchmark siren-psnr", _page)


def _in_order(deviations: dict[str, float]) -> list[float]:
    """Return the deviations of weights, then those of biases."""
    kinds = ("weight", "bias")
    return [deviations[f"seq.{layer}.{kind}"] for kind in kinds for layer in range(3)]
