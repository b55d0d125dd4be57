"""Splits of a data set: their names, and the examples that belong to each."""

from typing import Literal, TypeAlias, get_args

TrainSplit: TypeAlias = Literal["train", "train+validation"]
HeldOutSplit: TypeAlias = Literal["validation", "test"]
Split: TypeAlias = TrainSplit | HeldOutSplit

SPLITS: tuple[str, ...] = ("train", "validation", "test", "train+validation")


def check_split(owner: str, split: str) -> None:
    """Raise ValueError unless there is a split of that name.

    Args:
        owner: the public function that was asked, for the message.
        split: what it was asked for.
    """
    if split not in SPLITS:
        raise ValueError(
            f"{owner} needs a known split; got {split!r}. "
            f"Pass one of {', '.join(SPLITS)}."
        )


def split_range(
    owner: str, split: str, count: int, train_end: float, validation_end: float
) -> slice:
    """Return the place of a split among examples in a fixed order.

    The training examples come first, those for validation next, those to test on last.

    Args:
        owner: the public function that was asked, for a message.
        split: which.
        count: number of all examples.
        train_end: share of the examples that come before the validation split.
        validation_end: share of those that come before the test split.

    Raises:
        ValueError: if the split is unknown.
    """
    check_split(owner, split)
    first, second = round(train_end * count), round(validation_end * count)
    return {
        "train": slice(0, first),
        "validation": slice(first, second),
        "test": slice(second, count),
        "train+validation": slice(0, second),
    }[split]


def noun_of(split: str) -> str:
    """Return the word for a split's examples: training, validation or test."""
    return split if split in get_args(HeldOutSplit) else "training"
