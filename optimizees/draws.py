"""Random draws from a generator."""

from collections.abc import Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def draw_one(values: Sequence[T], generator: torch.Generator) -> T:
    """Return one of the values, all equally likely.

    Args:
        values: what there is.
        generator: on the CPU.
    """
    return values[int(torch.randint(len(values), (), generator=generator))]
