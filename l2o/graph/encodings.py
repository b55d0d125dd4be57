"""Positional encodings of neurons, keyed by role."""

import math

import torch
from torch import Tensor

from .neural_graph import NeuralGraph, NeuronGroup

_ROLES = ("input", "hidden", "output", "isolated")
_LOWEST = 1e-3
"""Lowest angular frequency: a period of about 6,000 indices."""


def encode_positions(graph: NeuralGraph, width: int, like: Tensor) -> list[Tensor]:
    """Return one fixed encoding per neuron, for every group of the graph.

    The first four channels tell the role. The others are sines and cosines of the
    neuron's index where neurons are told apart (inputs and outputs), and of the
    group's relative depth where they are exchangeable (hidden neurons, which share
    one vector). So input k means the same in every network, whatever its number of
    inputs or layers.

    Args:
        graph: the neural graph.
        width: number of channels, even and at least 6.
        like: a tensor whose dtype and device the encodings take.

    Returns:
        For each group `[neuron, width]`, or `[1, width]` where all neurons share it.
    """
    count = (width - len(_ROLES)) // 2
    # On the CPU even where the user's default device is another: one copy at the end.
    steps = torch.arange(count, dtype=torch.float64, device="cpu") / max(count - 1, 1)
    frequencies = torch.exp(steps * math.log(_LOWEST))
    return [_encode(group, frequencies).to(like) for group in graph.groups]


def _encode(group: NeuronGroup, frequencies: Tensor) -> Tensor:
    if group.role in ("input", "output"):
        position = torch.arange(group.size, dtype=torch.float64, device="cpu")
    else:
        position = frequencies.new_tensor([2 * math.pi * group.depth])
    angles = position[:, None] * frequencies
    role = frequencies.new_zeros(len(position), len(_ROLES))
    role[:, _ROLES.index(group.role)] = 1.0
    return torch.cat([role, angles.sin(), angles.cos()], dim=1)
