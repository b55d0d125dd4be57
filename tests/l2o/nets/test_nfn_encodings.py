from math import cos, pi, sin

import pytest
import torch

from l2o.nets.nfn_encodings import EntryEncoder, FourierFeatures, encode_places


@pytest.mark.parametrize("channels", [1, 3])
def test_fourier_features_are_sines_and_cosines_of_projections(channels):
    features = FourierFeatures(channels, 4, 0.5)
    values = torch.randn(2, 5, channels, generator=torch.Generator().manual_seed(0))
    turns = torch.einsum("abc,cf->abf", values, features.frequencies)
    expected = torch.cat([(2 * pi * turns).sin(), (2 * pi * turns).cos()], -1)
    assert features.out_channels == expected.shape[-1] == 8
    torch.testing.assert_close(features(values), expected)


def test_frequencies_are_fixed_scaled_and_saved():
    one, other = FourierFeatures(50, 60, 1.0), FourierFeatures(50, 60, 3.0)
    torch.testing.assert_close(3 * one.frequencies, other.frequencies)
    assert list(one.parameters()) == []
    assert list(one.state_dict()) == ["frequencies"]
    assert 0.95 < one.frequencies.std() < 1.05


def test_places_tell_inputs_outputs_and_layers_apart():
    def code(place):
        bands = (1.0, 1.25, 1.5)
        angles = [pi * place * band for band in bands]
        return [*map(sin, angles), *map(cos, angles), place]

    found = encode_places(
        (2, 4, 3, 3),
        max_frequency=3.0,
        num_bands=3,
        with_layers=False,
        like=torch.zeros((), dtype=torch.float64),
    )
    shapes = [tuple(item.shape) for item in found]
    assert shapes[:4] == [(1, 1, 2, 1, 7), (1, 1, 1, 7), (1, 1, 1, 1, 7), (1, 1, 1, 7)]
    assert shapes[4:] == [(1, 3, 1, 1, 7), (1, 3, 1, 7)]
    inputs = torch.tensor([code(-1), code(1)], dtype=torch.float64)
    outputs = torch.tensor([code(-1), code(0), code(1)], dtype=torch.float64)
    torch.testing.assert_close(found[0][0, 0, :, 0], inputs)
    torch.testing.assert_close(found[5][0, :, 0], outputs)
    assert not found[2].any()
    layered = encode_places(
        (2, 4, 3, 3), max_frequency=3.0, num_bands=3, with_layers=True, like=inputs
    )
    torch.testing.assert_close(layered[2].flatten(), outputs[1])
    torch.testing.assert_close(layered[0][0, 0, :, 0], inputs + outputs[0])


@pytest.mark.parametrize(
    ("frequencies", "bands", "channels"),
    [
        (0, 0, 2),
        (4, 0, 8),
        (0, 3, 9),
        (4, 3, 15),
    ],
)
def test_an_encoder_counts_its_channels(frequencies, bands, channels):
    encoder = EntryEncoder(2, num_frequencies=frequencies, num_bands=bands)
    laid = [torch.zeros(2, 3, 4, 1, 2), None]
    weight, bias = encoder(laid, (4, 3))
    assert encoder.out_channels == weight.shape[-1] == channels
    assert weight.shape[:-1] == (2, 3, 4, 1)
    assert bias is None
