"""The activations that a family can be built with, by name."""

from torch import nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def build_activation(name: str) -> nn.Module:
    """Build one element-wise activation.

    Args:
        name: "elu", "gelu", "identity", "leaky_relu", "relu", "sigmoid", "silu"
            or "tanh".

    Returns:
        A fresh module without parameters.

    Raises:
        ValueError: if the name is not in the list.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"build_activation needs a known name; got {name!r}. "
            f"Pass one of {', '.join(sorted(_ACTIVATIONS))}."
        )
    return _ACTIVATIONS[name]()
