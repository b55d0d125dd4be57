"""Language modelling, character by character."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from .batches import cut
from .data.text import TextData, TextSampler
from .task import CHARACTER_ACCURACY, Task


def text_task(
    name: str,
    build_model: Callable[[], nn.Module],
    train: TextData,
    *,
    batch_size: int,
    context: int,
    held_out: Mapping[str, TextData] | None = None,
) -> Task:
    """Return the task of predicting each next character of a text, on its device.

    Args:
        name: a short name for logs and results.
        build_model: builds one network that maps characters `[B, context]` to logits
            `[B, context, vocabulary]`.
        train: text to train on.
        batch_size: pieces per batch.
        context: characters per piece.
        held_out: text to evaluate on, by split.

    Raises:
        ValueError: if a text is shorter than a piece, or the batch is empty.
    """
    splits = {} if held_out is None else dict(held_out)
    batches = partial(TextSampler, train, batch_size, context)
    batches(0)  # refuses an impossible batch size now
    first = next(iter(splits.values()), None)
    ending = "" if first is None else f" and {len(first.tokens):,} held out"
    return Task(
        name=name,
        build_model=build_model,
        batches=batches,
        metric=CHARACTER_ACCURACY,
        held_out={
            split: cut(text.windows(context), 100) for split, text in splits.items()
        },
        source=f"{train.source.partition(' (')[0]}, {len(train.tokens):,} characters "
        f"to train on{ending}",
        device=train.tokens.device,
    )
