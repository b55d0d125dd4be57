"""Stochastic rounding to bfloat16, with noise that needs no generator.

The noise of an entry is a hash of its place, its parameter and the step, so that a run
that stops and goes on rounds as the run that never stopped, a skipped step leaves no
trace, and nothing but the state is saved.
"""

import torch
from torch import Tensor

_DROPPED = 16
"""Bits of a float32 that bfloat16 has no place for."""


def rounded(values: Tensor, noise: Tensor) -> Tensor:
    """Return the values in bfloat16, up or down at random: the mean is the value.

    Rounding to the nearest loses every change below half a unit in the last place, one
    part in 512: an average at decay 0.9999 would not follow its gradients.

    Args:
        values: of any shape, not NaN.
        noise: integers in int32, of the same shape; each entry's lower 16 bits count.

    Reference:
        Gupta et al., 2015, "Deep learning with limited numerical precision",
        https://arxiv.org/abs/1502.02551.

    Example:
        >>> values = torch.full((1000,), 1 + 2.0**-9)  # a quarter of the way up
        >>> noise = noise_of(values, seed_of(torch.ones(()), 0))
        >>> rounded(values, noise[0]).unique()
        tensor([1.0000, 1.0078], dtype=torch.bfloat16)
    """
    dropped = 2**_DROPPED - 1
    bits = values.float().contiguous().view(torch.int32) + (noise & dropped)
    return (bits & ~dropped).view(torch.float32).to(torch.bfloat16)


def seed_of(step: Tensor, number: int) -> Tensor:
    """Return where the noise of a step starts.

    Args:
        step: which one, `[]`.
        number: of the parameter, in 32 bits.
    """
    return _mixed(step.to(torch.int32) + _signed(number))


def noise_of(values: Tensor, seed: Tensor, start: int = 0) -> list[Tensor]:
    """Return noise for six roundings of tensors of the values' shape.

    Args:
        values: only shape and device matter.
        seed: what `seed_of` returned.
        start: place of the first value in a longer tensor that is cut into pieces.
    """
    end = start + values.numel()
    kind = {"dtype": torch.int32, "device": values.device}
    places = torch.arange(start, end, **kind).view(values.shape)
    streams = _mixed(seed + torch.arange(3, **kind)).view(-1, *[1] * values.ndim)
    hashes = _mixed(places ^ streams)
    return [half for bits in hashes for half in (bits, bits >> _DROPPED)]


def _mixed(bits: Tensor) -> Tensor:
    """Return a hash of 32 bits in which each bit depends on all (Wellons, 2018)."""
    bits = (bits ^ _shifted(bits, 16)) * _signed(0x7FEB352D)
    bits = (bits ^ _shifted(bits, 15)) * _signed(0x846CA68B)
    return bits ^ _shifted(bits, 16)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Shift to the right; torch would repeat the sign."""
    return (bits >> count) & (2 ** (32 - count) - 1)


def _signed(number: int) -> int:
    """Return the int32 of the same bits."""
    return number - 2**32 if number >= 2**31 else number
