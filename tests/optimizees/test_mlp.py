import pytest
import torch

from optimizees.mlp import MLP


def test_the_layers_have_the_widths_and_no_activation_at_the_end():
    model = MLP((12, 5, 3), activation="relu")
    assert [tuple(param.shape) for param in model.parameters()] == [
        (5, 12),
        (5,),
        (3, 5),
        (3,),
    ]
    assert isinstance(model.layers[-1], torch.nn.Linear)


def test_images_are_flattened():
    model, images = MLP((12, 3)), torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(model(images), model(images.reshape(4, 12)))


def test_one_width_is_not_a_network():
    with pytest.raises(ValueError, match="Pass at least two"):
        MLP((12,))
