"""Tasks on labelled images: classification and reconstruction."""

import re
from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from .batches import Batch, BatchSampler, cut
from .data.images import ImageData
from .task import ACCURACY, Task


def image_task(
    name: str,
    build_model: Callable[[], nn.Module],
    train: ImageData,
    *,
    batch_size: int,
    held_out: Mapping[str, ImageData] | None = None,
) -> Task:
    """Return the task of classifying images, on their device.

    Args:
        name: a short name for logs and results.
        build_model: builds one network with an output per class.
        train: images to train on.
        batch_size: images per batch.
        held_out: images to evaluate on, by split.

    Raises:
        ValueError: unless 1 <= batch_size <= len(train).

    Example:
        >>> from optimizees import fashion_cnn, image_task, load_fashion_mnist
        >>> images = load_fashion_mnist("validation", source="embedded")
        >>> task = image_task("small", fashion_cnn, images, batch_size=8)
        >>> task.batches(0).next().inputs.shape
        torch.Size([8, 1, 28, 28])
    """
    splits = {} if held_out is None else dict(held_out)
    batches = partial(BatchSampler, Batch(train.images, train.labels), batch_size)
    batches(0)  # refuses an impossible batch size now
    return Task(
        name=name,
        build_model=build_model,
        batches=batches,
        metric=ACCURACY,
        held_out={
            split: cut(Batch(images.images, images.labels))
            for split, images in splits.items()
        },
        source=describe(train, next(iter(splits.values()), None)),
        device=train.images.device,
    )


def describe(train: ImageData, held_out: ImageData | None) -> str:
    """Say which data is trained and evaluated on, without the place where it lies."""
    kind = re.sub(r",? ?[\d,]+ \w+ images.*", ")", train.source).removesuffix(" ()")
    ending = "" if held_out is None else f" and {len(held_out):,} held out"
    return f"{kind}, {len(train):,} images to train on{ending}"
