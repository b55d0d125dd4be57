import pytest
import torch
from torch.nn import functional

from optimizees.activations import build_activation


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("elu", functional.elu),
        ("gelu", functional.gelu),
        ("identity", lambda x: x),
        ("leaky_relu", functional.leaky_relu),
        ("relu", functional.relu),
        ("sigmoid", torch.sigmoid),
        ("silu", functional.silu),
        ("tanh", torch.tanh),
    ],
)
def test_each_name_builds_its_function(name, function):
    values = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(build_activation(name)(values), function(values))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="Pass one of elu, gelu"):
        build_activation("swish")
