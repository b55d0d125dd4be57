"""Apply the shipped companion to networks that it was not trained on."""

import io
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.inr.tasks import GRAPH, evaluate_sirens
from l2o.companion import NetworkClassifier, load_companion, stack_networks
from l2o.files import write_whole
from optimizees.siren import render_images
from optimizees.zoo.inr_set import InrSet, load_embedded_fits

_COLUMNS = 12
"""Digits in a row of the picture."""


@torch.no_grad()
def read_digits(fits: InrSet) -> Int[Tensor, " N"]:
    """Return the digit that `siren-digits` reads in each network.

    Args:
        fits: networks that are images of digits.
    """
    model = load_companion("siren-digits", evaluate=evaluate_sirens)
    assert isinstance(model, NetworkClassifier)
    return model(stack_networks(GRAPH, fits.networks)).argmax(1)


def run_demo(path: Path) -> str:
    """Read the 48 digits that come with the library, which no training set had.

    Args:
        path: the picture to write: each digit below what was read.

    Returns:
        How many were right, as a sentence.
    """
    fits = load_embedded_fits()
    found = read_digits(fits)
    write_whole(path, _picture(fits, found))
    right = int((found == fits.labels).sum())
    return f"siren-digits read {right} of {len(fits)} networks right."


def _picture(fits: InrSet, found: Tensor) -> bytes:
    from matplotlib.figure import Figure  # without pyplot: needs no display

    rows = -(-len(fits) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS, 1.25 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    images = render_images(fits.networks)
    for axis, image, says, label in zip(
        axes, images, found.tolist(), fits.labels.tolist(), strict=False
    ):
        axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(str(says), color="black" if says == label else "red")
    figure.suptitle("Networks that are digits, and the digit that is read (wrong: red)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()
