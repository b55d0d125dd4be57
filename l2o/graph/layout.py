"""Parameter tensors to dense blocks `[target, source, cell]` and back, exactly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .neural_graph import NeuralGraph


@dataclass(frozen=True, slots=True)
class Blocks:
    """Values laid on a neural graph, with any trailing feature axes.

    Attributes:
        edges: for each of `graph.blocks`, a tensor `[target, source, cell, *features]`.
        nodes: for each of `graph.groups`, a tensor `[neuron, *features]`, or None
            where the group has no node parameter.
    """

    edges: tuple[Tensor, ...]
    nodes: tuple[Tensor | None, ...]


def to_blocks(graph: NeuralGraph, tensors: Mapping[str, Tensor]) -> Blocks:
    """Lay one tensor a parameter on the graph.

    Args:
        graph: where each parameter entry belongs.
        tensors: name to `[*shape, *features]`; the parameter's own shape comes first.

    Returns:
        Views of `tensors` where strides allow; autograd passes through.
    """
    edges = []
    for block in graph.blocks:
        tensor = tensors[block.parameter]
        features = tensor.shape[len(graph.shapes[block.parameter]) :]
        target, source = graph.groups[block.target], graph.groups[block.source]
        edges.append(
            tensor.reshape(target.size, source.size, block.num_cells, *features)
        )
    nodes: list[Tensor | None] = [None] * len(graph.groups)
    for node in graph.node_parameters:
        tensor = tensors[node.parameter]
        features = tensor.shape[len(graph.shapes[node.parameter]) :]
        nodes[node.group] = tensor.reshape(graph.groups[node.group].size, *features)
    return Blocks(tuple(edges), tuple(nodes))


def from_blocks(graph: NeuralGraph, blocks: Blocks) -> dict[str, Tensor]:
    """Return each parameter's own tensor; the exact inverse of `to_blocks`."""
    found = {}
    for block, tensor in zip(graph.blocks, blocks.edges, strict=True):
        shape = graph.shapes[block.parameter]
        found[block.parameter] = tensor.reshape(*shape, *tensor.shape[3:])
    for node in graph.node_parameters:
        tensor = blocks.nodes[node.group]
        assert tensor is not None
        shape = graph.shapes[node.parameter]
        found[node.parameter] = tensor.reshape((*shape, *tensor.shape[1:]))
    return {name: found[name] for name in graph.shapes}


def pad_cells(tensor: Tensor, cells: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Centre each kernel in a grid of a common size, zeros around it.

    Where the difference is odd, the extra row or column comes last. A block with one
    cell (a linear layer) counts as a kernel of one cell.

    Args:
        tensor: `[target, source, cell, *features]`.
        cells: the kernel's own grid; its product is the number of cells.
        size: the common grid.

    Returns:
        `[target, source, prod(size), *features]`.

    Raises:
        ValueError: if the kernel has more axes than `size` or is larger on one.
    """
    grid = _aligned(cells, size)
    features = tensor.shape[3:]
    padding = [0, 0] * len(features)
    for own, common in zip(reversed(grid), reversed(size), strict=True):
        before = (common - own) // 2
        padding += [before, common - own - before]
    padded = F.pad(tensor.reshape(*tensor.shape[:2], *grid, *features), padding)
    return padded.reshape(*tensor.shape[:2], math.prod(size), *features)


def crop_cells(tensor: Tensor, cells: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Return each kernel from its place in a common grid: inverse of `pad_cells`."""
    grid = _aligned(cells, size)
    features = tensor.shape[3:]
    tensor = tensor.reshape(*tensor.shape[:2], *size, *features)
    for axis, (own, common) in enumerate(zip(grid, size, strict=True), start=2):
        tensor = torch.narrow(tensor, axis, (common - own) // 2, own)
    return tensor.reshape(*tensor.shape[:2], math.prod(cells), *features)


def _aligned(cells: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """Return `cells` with leading ones up to the axes of `size`, or raise."""
    grid = (1,) * (len(size) - len(cells)) + cells
    if len(grid) != len(size) or any(a > b for a, b in zip(grid, size, strict=True)):
        raise ValueError(
            f"pad_cells needs kernels that fit in {size}; got one of {cells}. "
            "Use a rule that pools kernel cells (NGGNNConfig(kernel=None)), or one "
            "with a larger kernel."
        )
    return grid
