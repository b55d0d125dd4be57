"""Labelled images in memory: the one record that every loader returns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images with their classes, normalised and ready to train on."""

    images: Float[Tensor, "N C H W"]
    """Normalised pixels, float32."""
    labels: Int[Tensor, " N"]
    """Class of each image, int64."""
    source: str
    """Which data this is, as a sentence to quote with a result."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(
                "ImageData needs one label per image; got "
                f"{len(self.images)} images and {len(self.labels)} labels. "
                "Pass images and labels of the same split."
            )

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, start: int, stop: int) -> "ImageData":
        """Return the images from `start` up to, not including, `stop`.

        Args:
            start: index of the first image.
            stop: index after the last image.

        Returns:
            A view: it shares memory with this record.

        Raises:
            ValueError: unless 0 <= start < stop <= len(self).
        """
        if not 0 <= start < stop <= len(self):
            raise ValueError(
                f"ImageData.subset needs 0 <= start < stop <= {len(self)}; "
                f"got start={start}, stop={stop}. Choose a range inside the data."
            )
        return replace(
            self,
            images=self.images[start:stop],
            labels=self.labels[start:stop],
            source=f"{self.source}, images {start:,} to {stop - 1:,}",
        )

    def of_classes(self, classes: Sequence[int]) -> "ImageData":
        """Return the images of some classes, labelled by their place in the list.

        Args:
            classes: which, each once; `classes[0]` becomes label 0, and so on.

        Returns:
            A record with its own images, in their order.

        Raises:
            ValueError: if a class is named twice or has no image.
        """
        counts = torch.bincount(self.labels, minlength=max(classes, default=0) + 1)
        is_there = bool(classes) and bool((counts[list(classes)] > 0).all())
        if len(set(classes)) != len(classes) or not is_there:
            raise ValueError(
                "ImageData.of_classes needs classes that are there, each once; got "
                f"{tuple(classes)} for images of the classes "
                f"{torch.unique(self.labels).tolist()}. Choose among those."
            )
        places = torch.full_like(counts, -1)
        places[list(classes)] = torch.arange(len(classes), device=places.device)
        labels = places[self.labels]
        is_kept = labels >= 0
        return replace(
            self,
            images=self.images[is_kept],
            labels=labels[is_kept],
            source=f"{self.source}, classes {', '.join(map(str, classes))}",
        )

    def pooled(self, size: int) -> "ImageData":
        """Return the images averaged down to `size` x `size` pixels.

        Args:
            size: side of the new images in pixels; must divide height and width.

        Returns:
            A record with its own images; it shares the labels.

        Raises:
            ValueError: if `size` divides the height or the width with a remainder.
        """
        height, width = self.images.shape[-2:]
        if size < 1 or height % size or width % size:
            raise ValueError(
                "ImageData.pooled needs a size that divides the image side; "
                f"got size={size} for {height} x {width} pixels. Pass a divisor."
            )
        kernel = (height // size, width // size)
        return replace(
            self,
            images=functional.avg_pool2d(self.images, kernel),
            source=f"{self.source}, average-pooled to {size} x {size} pixels",
        )

    def to(self, device: torch.device | str) -> "ImageData":
        """Return the record on `device`; shares memory if it is there already."""
        return replace(
            self, images=self.images.to(device), labels=self.labels.to(device)
        )


def normalise(
    pixels: UInt8[Tensor, "N C H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "N C H W"]:
    """Scale bytes to [0, 1], then subtract the mean and divide by the deviation.

    Args:
        pixels: raw images.
        mean: one value per channel, in units of [0, 1].
        std: one value per channel, in units of [0, 1].

    Returns:
        Fresh float32 images.
    """
    shape = (-1, 1, 1)
    images = pixels.to(torch.float32).div_(255)
    images -= torch.tensor(mean, dtype=torch.float32).view(shape)
    images /= torch.tensor(std, dtype=torch.float32).view(shape)
    return images
