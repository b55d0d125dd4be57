"""Grey images in rows."""

import io
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor


def draw_rows(rows: Mapping[str, Float[Tensor, "N H W"]]) -> bytes:
    """Return a PNG file of images below each other.

    Args:
        rows: title to as many images as in the other rows; 0 is black, 1 is white.
    """
    from matplotlib.figure import Figure  # without pyplot: needs no display

    columns = min(len(images) for images in rows.values())
    figure = Figure(figsize=(columns, 1.05 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (title, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image.detach().numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(title, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()
