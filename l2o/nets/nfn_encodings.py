"""Input encodings of neural functionals: random frequencies and positions."""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """Sines and cosines of random projections, with fixed Gaussian frequencies.

    The frequencies are the same for every network of one size; they are saved with it.

    Args:
        in_channels: channels per entry.
        frequencies: their number; an entry gets twice as many channels.
        scale: standard deviation of the frequencies, in turns per unit of input.

    Reference:
        Tancik et al., 2020, "Fourier Features Let Networks Learn High Frequency
        Functions in Low Dimensional Domains", https://arxiv.org/abs/2006.10739.
    """

    frequencies: Tensor

    def __init__(self, in_channels: int, frequencies: int, scale: float) -> None:
        super().__init__()
        device = torch.get_default_device()
        shape = (in_channels, frequencies)
        if device.type == "meta":  # only the shape is wanted
            drawn = torch.empty(shape)
        else:
            generator = torch.Generator(device="cpu").manual_seed(0)
            drawn = scale * torch.randn(shape, generator=generator, device="cpu")
        self.register_buffer("frequencies", drawn.to(device))

    @property
    def out_channels(self) -> int:
        """Channels that an entry gets."""
        return 2 * self.frequencies.shape[1]

    def forward(self, values: Tensor) -> Tensor:
        """Return `[..., out_channels]` from `[..., in_channels]`."""
        if len(self.frequencies) == 1:
            angles = values * (2 * pi * self.frequencies[0])
        else:
            angles = values @ (2 * pi * self.frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def num_place_channels(num_bands: int) -> int:
    """Return the channels of a position: itself, its sines and its cosines."""
    return 1 + 2 * num_bands


def encode_places(
    sizes: Sequence[int],
    *,
    max_frequency: float,
    num_bands: int,
    with_layers: bool,
    like: Tensor,
) -> list[Tensor]:
    """Encode the positions of inputs, outputs and layers of a chain.

    Args:
        sizes: neurons of the inputs, of each hidden layer and of the outputs.
        max_frequency: highest frequency, in half turns from the first to the last.
        num_bands: number of frequencies, evenly spaced.
        with_layers: whether layers are encoded, too.
        like: gives dtype and device.

    Returns:
        For weight and bias of each layer in turn `[1, target, source, 1, channel]` and
        `[1, neuron, 1, channel]`; axes along which the encoding is constant are 1.

    Reference:
        Zhou et al., 2023, "Permutation Equivariant Neural Functionals", section 2.3.
    """

    def encode(count: int) -> Tensor:
        places = torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
        bands = torch.linspace(1, max_frequency / 2, num_bands, dtype=torch.float64)
        angles = pi * places * bands
        encoded = torch.cat([angles.sin(), angles.cos(), places], dim=-1)
        return encoded.to(like)

    depth = len(sizes) - 1
    layers = encode(depth)
    found = []
    for layer in range(depth):
        base = layers[layer] if with_layers else torch.zeros_like(layers[layer])
        weight, bias = base[None, None, None, None], base[None, None, None]
        if layer == 0:
            weight = weight + encode(sizes[0])[None, None, :, None]
        if layer == depth - 1:
            outputs = encode(sizes[-1])[None, :, None]
            weight, bias = weight + outputs[:, :, None], bias + outputs
        found += [weight, bias]
    return found


class EntryEncoder(nn.Module):
    """Entries of a chain as random frequencies, joined by their position.

    Args:
        in_channels: channels per entry.
        num_frequencies: random frequencies; 0 leaves entries as they are.
        fourier_scale: standard deviation of the frequencies.
        num_bands: frequencies of the encoding of positions; 0 for none.
        max_frequency: highest of these.
        with_layers: whether layers are encoded, too.
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        num_frequencies: int = 0,
        fourier_scale: float = 1.0,
        num_bands: int = 0,
        max_frequency: float = 3.0,
        with_layers: bool = True,
    ) -> None:
        super().__init__()
        self.num_bands = num_bands
        self.max_frequency = max_frequency
        self.with_layers = with_layers
        self.fourier = None
        self.out_channels = in_channels
        if num_frequencies:
            self.fourier = FourierFeatures(in_channels, num_frequencies, fourier_scale)
            self.out_channels = self.fourier.out_channels
        if num_bands:
            self.out_channels += num_place_channels(num_bands)

    def forward(
        self, laid: list[Tensor | None], sizes: Sequence[int]
    ) -> list[Tensor | None]:
        """Return the tensors with `out_channels` channels.

        Args:
            laid: weight and bias of each layer in turn, `[batch, target, source, cell,
                channel]` and `[batch, neuron, cell, channel]`; None for an absent one.
            sizes: neurons of the inputs, of each hidden layer and of the outputs.
        """
        if self.fourier is not None:
            laid = [None if values is None else self.fourier(values) for values in laid]
        if not self.num_bands:
            return laid
        places = encode_places(
            sizes,
            max_frequency=self.max_frequency,
            num_bands=self.num_bands,
            with_layers=self.with_layers,
            like=next(values for values in laid if values is not None),
        )
        return [
            None
            if values is None
            else torch.cat([values, place.expand(*values.shape[:-1], -1)], dim=-1)
            for values, place in zip(laid, places, strict=True)
        ]
