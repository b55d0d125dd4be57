from collections import Counter

import pytest
import torch

from optimizees.zoo.wild_cnn import (
    WildArchitecture,
    WildCNN,
    WildLayer,
    draw_architecture,
    parameter_shapes,
)


@pytest.fixture(scope="module")
def drawn():
    generator = torch.Generator().manual_seed(0)
    return [draw_architecture(generator) for _ in range(3000)]


def share(values):
    values = list(values)
    return {key: count / len(values) for key, count in Counter(values).items()}


def layer(channels=4, skip=None, activation="tanh", kernel_size=3):
    return WildLayer(
        channels=channels, kernel_size=kernel_size, activation=activation, skip=skip
    )


class TestTheDistribution:
    def test_depths_widths_kernels_and_activations_are_uniform(self, drawn):
        layers = [layer for architecture in drawn for layer in architecture.layers]
        for values, choices in (
            ((len(architecture.layers) for architecture in drawn), {2, 3, 4, 5}),
            ((layer.channels for layer in layers), {4, 8, 16, 32}),
            ((layer.kernel_size for layer in layers), {3, 5, 7}),
            (
                (layer.activation for layer in layers),
                {"relu", "gelu", "tanh", "sigmoid", "leaky_relu", "identity"},
            ),
        ):
            found = share(values)
            assert found.keys() == choices
            assert all(abs(part - 1 / len(choices)) < 0.03 for part in found.values())

    def test_a_skip_is_none_or_leaves_out_a_layer_all_equally_likely(self, drawn):
        for place in range(5):
            skips = share(
                architecture.layers[place].skip
                for architecture in drawn
                if len(architecture.layers) > place
            )
            choices = {None, *range(place - 1)}
            assert skips.keys() == choices
            assert all(abs(part - 1 / len(choices)) < 0.05 for part in skips.values())

    def test_the_generator_decides(self):
        first, again, other = (
            draw_architecture(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        )
        assert first == again != other


class TestTheNetwork:
    def test_it_has_the_shapes_that_are_announced(self, drawn):
        for architecture in drawn[:10]:
            model = WildCNN(architecture)
            found = {name: tuple(p.shape) for name, p in model.named_parameters()}
            assert found == parameter_shapes(architecture)
            assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)

    @pytest.mark.parametrize(("source", "target"), [(2, 5), (5, 2), (4, 4)])
    def test_a_skip_joins_as_many_channels_as_both_have(self, source, target):
        layers = (layer(source), layer(3), layer(target, skip=0, activation="identity"))
        model = WildCNN(WildArchitecture(layers=layers)).double()
        images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        with torch.no_grad():
            first = torch.tanh(model.convs[0](images))
            last = model.convs[2](torch.tanh(model.convs[1](first)))
            both = min(source, target)
            last[:, :both] += first[:, :both]
            expected = model.head(last.mean((2, 3)))
            torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-12)

    def test_it_survives_json(self, drawn):
        for architecture in drawn[:10]:
            assert WildArchitecture.from_json(architecture.to_json()) == architecture


class TestWhatIsRefused:
    @pytest.mark.parametrize("place", [1, 2])
    def test_a_skip_from_the_layer_before(self, place):
        layers = [layer()] * 4
        layers[place] = layer(skip=place - 1)
        with pytest.raises(ValueError, match="Name a layer from 0"):
            WildArchitecture(layers=tuple(layers))

    def test_no_layer(self):
        with pytest.raises(ValueError, match="Pass a WildLayer for each"):
            WildArchitecture(layers=())
