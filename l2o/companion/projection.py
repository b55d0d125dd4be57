"""From the values of an edge or a neuron to its first state."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import InputsConfig


class Projection(nn.Module):
    """Two linear maps in a row, of the values or of their waves at fixed frequencies.

    Nothing stands between the two maps, so edges meet their product. A forward edge is
    `[w, 0, w]` and a reversed one `[0, w, w]`; neither is written out, the rows that
    meet the same value are added up instead.

    Args:
        channels: numbers per edge or neuron.
        width: channels of its state.
        config: whether there are frequencies, and how many.
        has_ways: whether edges are read as `[forward, reversed, both]`.

    Reference:
        Tancik et al., 2020, "Fourier Features Let Networks Learn High Frequency
        Functions in Low Dimensional Domains", https://arxiv.org/abs/2006.10739.
    """

    frequencies: Tensor | None

    def __init__(
        self, channels: int, width: int, config: InputsConfig, *, has_ways: bool
    ) -> None:
        super().__init__()
        self.channels = channels
        self.has_ways = has_ways
        count = channels * 3 if has_ways else channels
        frequencies = None
        if config.fourier_scale is not None:
            frequencies = torch.randn(count, config.num_frequencies)
            frequencies *= config.fourier_scale
            count = 2 * config.num_frequencies
        self.register_buffer("frequencies", frequencies)
        self.first = nn.Linear(count, width)
        self.second = nn.Linear(width, width)

    def forward(
        self, values: Tensor, *, is_reversed: bool = False, extra: Tensor | None = None
    ) -> Tensor:
        """Return `[..., width]`.

        Args:
            values: `[..., channels]`.
            is_reversed: whether these are edges against the weights.
            extra: `[..., width]`, added between the two maps.
        """
        weight = self.first.weight
        if self.frequencies is None:
            features, weight = values, self._joined(weight.T, is_reversed).T
        else:
            features = waves(values, self._joined(self.frequencies, is_reversed))
        if extra is not None:
            return self.second(F.linear(features, weight, self.first.bias) + extra)
        both = self.second.weight @ weight
        return F.linear(features, both, self.second(self.first.bias))

    def _joined(self, rows: Tensor, is_reversed: bool) -> Tensor:
        """Add up the rows of `[3 * channels, ...]` that meet the same value."""
        if not self.has_ways:
            return rows
        forward, backward, both = rows.split(self.channels)
        return both + (backward if is_reversed else forward)


def waves(values: Tensor, frequencies: Tensor) -> Tensor:
    """Return cosines and sines of values, `[..., 2 * frequency]`.

    Args:
        values: `[..., channels]`.
        frequencies: `[channels, frequency]`, in turns a unit.
    """
    angles = values @ (2 * math.pi * frequencies)
    if angles.requires_grad:
        return torch.cat([angles.cos(), angles.sin()], dim=-1)
    count = frequencies.shape[1]
    found = angles.new_empty(*angles.shape[:-1], 2 * count)
    torch.cos(angles, out=found[..., :count])
    torch.sin(angles, out=found[..., count:])
    return found
