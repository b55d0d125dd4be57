import inspect

import pytest
import torch

from optimizees.cnn import ConvNet, cifar_cnn, fashion_cnn


def num_params(model):
    return sum(param.numel() for param in model.parameters())


@pytest.mark.parametrize(
    ("build", "shape", "expected"),
    # Counts of the released re-implementations of the paper's two optimizees.
    [(fashion_cnn, (1, 28, 28), 14_378), (cifar_cnn, (3, 32, 32), 56_970)],
)
def test_the_papers_networks_have_their_parameter_counts(build, shape, expected):
    model = build()
    assert num_params(model) == expected
    assert model(torch.randn(2, *shape)).shape == (2, 10)


def test_parameters_come_weight_then_bias_in_the_order_of_the_layers():
    shapes = [tuple(param.shape) for param in fashion_cnn().parameters()]
    assert shapes == [
        (16, 1, 3, 3),
        (16,),
        (32, 16, 3, 3),
        (32,),
        (32, 32, 3, 3),
        (32,),
        (10, 32),
        (10,),
    ]
    assert list(dict(fashion_cnn().named_parameters()))[-2:] == [
        "head.weight",
        "head.bias",
    ]


def test_only_the_first_convolution_shrinks_the_image():
    model = ConvNet(1, (2, 3), kernel_size=5)
    sizes = []
    for layer in model.body:
        layer.register_forward_hook(lambda *call: sizes.append(call[2].shape[-1]))
    model(torch.randn(1, 1, 28, 28))
    assert sizes == [12, 12, 12, 12]


@pytest.mark.parametrize("image_size", [9, 10, 28])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_flatten_keeps_every_pixel(image_size, kernel_size):
    model = ConvNet(
        2, (3,), kernel_size=kernel_size, head="flatten", image_size=image_size
    )
    side = (image_size - kernel_size) // 2 + 1
    assert model.head.in_features == 3 * side**2
    assert model(torch.randn(2, 2, image_size, image_size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"channels": ()}, "Pass the output channels of each"),
        ({"kernel_size": 4}, "Pass 1, 3 or 5"),
        ({"image_size": 2}, "Pass a smaller kernel_size"),
        ({"head": "sum"}, "Pass head='pool' or head='flatten'"),
        ({"activation": "swish"}, "Pass one of elu"),
    ],
)
def test_impossible_networks_say_what_to_pass(arguments, advice):
    with pytest.raises(ValueError, match=advice):
        # Unwrapped, since the type hook would refuse an unknown head first.
        inspect.unwrap(ConvNet.__init__)(
            object.__new__(ConvNet), **{"in_channels": 1, "channels": (2,), **arguments}
        )
