"""Normalisation layers without running statistics, by name."""

from typing import Literal, TypeAlias, assert_never

from torch import nn

NormName: TypeAlias = Literal["none", "batch", "group", "layer"]


def build_norm(name: NormName, channels: int, *, is_image: bool) -> nn.Module:
    """Build one normalisation layer.

    Args:
        name: "batch" takes the statistics of the current batch, in evaluation too;
            "group" has groups of two channels or one where that does not divide;
            "layer" normalises all channels together; "none" does nothing.
        channels: of what it normalises.
        is_image: whether the channels are the second of four axes; else the last.
    """
    match name:
        case "none":
            return nn.Identity()
        case "batch":
            build = nn.BatchNorm2d if is_image else nn.BatchNorm1d
            return build(channels, track_running_stats=False)
        case "group":
            return nn.GroupNorm(channels // 2 if channels % 2 == 0 else 1, channels)
        case "layer":
            return nn.GroupNorm(1, channels) if is_image else nn.LayerNorm(channels)
        case _:
            assert_never(name)
