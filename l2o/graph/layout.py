"""Parameter tensors to dense blocks and back, exactly.

A block is an affine view of its parameter, so reshaping, narrowing and permuting reach
it without a copy; only odd strides need an index.
"""

import itertools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .neural_graph import NeuralGraph, View


@dataclass(frozen=True, slots=True)
class Blocks:
    """Values laid on a neural graph, with any trailing feature axes.

    Attributes:
        edges: for each of `graph.blocks`, aliases included, a tensor
            `[part, target, source, cell, *features]`.
        nodes: for each of `graph.node_parameters`, `[neuron, cell, *features]`.
    """

    edges: tuple[Tensor, ...]
    nodes: tuple[Tensor, ...]


def to_blocks(graph: NeuralGraph, tensors: Mapping[str, Tensor]) -> Blocks:
    """Lay one tensor per parameter on the graph.

    Args:
        graph: where each parameter entry belongs.
        tensors: name to `[*shape, *features]`; the parameter's own shape comes first.

    Returns:
        Views of `tensors` where strides allow; autograd passes through.
    """
    edges = tuple(
        take_view(
            tensors[block.parameter], graph.shapes[block.parameter], block.view, lead=3
        )
        for block in graph.blocks
    )
    nodes = tuple(
        take_view(
            tensors[node.parameter], graph.shapes[node.parameter], node.view, lead=1
        )
        for node in graph.node_parameters
    )
    return Blocks(edges, nodes)


def from_blocks(graph: NeuralGraph, blocks: Blocks) -> dict[str, Tensor]:
    """Return each parameter's own tensor; the exact inverse of `to_blocks`.

    What `blocks` holds for aliases is ignored.
    """
    pieces: dict[str, list[tuple[View, Tensor]]] = {name: [] for name in graph.shapes}
    for block, tensor in zip(graph.blocks, blocks.edges, strict=True):
        if not block.is_alias:
            whole = tensor.reshape(*block.view.shape, *tensor.shape[4:])
            pieces[block.parameter].append((block.view, whole))
    for node, tensor in zip(graph.node_parameters, blocks.nodes, strict=True):
        whole = tensor.reshape(*node.view.shape, *tensor.shape[2:])
        pieces[node.parameter].append((node.view, whole))
    return {
        name: put_views(graph.shapes[name], found) for name, found in pieces.items()
    }


def take_view(
    tensor: Tensor, shape: tuple[int, ...], view: View, *, lead: int
) -> Tensor:
    """Return the entries of `view`, with all axes after the first `lead` flattened.

    Args:
        tensor: `[*shape, *features]`.
        shape: the parameter's own shape.
        view: which of its entries.
        lead: number of axes before the cells.
    """
    features = tensor.shape[len(shape) :]
    wanted = (*view.shape[:lead], math.prod(view.shape[lead:]), *features)
    numel = math.prod(shape)
    if view.numel == numel and view == View.contiguous(*view.shape):
        return tensor.reshape(wanted)
    cut = _find_cut(view, numel)
    if cut is None:
        flat = tensor.reshape(numel, *features)
        return flat[_entries(view, tensor.device)].reshape(wanted)
    tensor = tensor.reshape(*cut.grid, *features)
    for axis, (start, length) in enumerate(zip(cut.starts, cut.lengths, strict=True)):
        tensor = torch.narrow(tensor, axis, start, length)
    tensor = tensor.reshape(*(view.shape[axis] for axis in cut.order), *features)
    return _permuted(tensor, _inverse(cut.order)).reshape(wanted)


def put_views(shape: tuple[int, ...], pieces: list[tuple[View, Tensor]]) -> Tensor:
    """Return the parameter whose views the pieces are: inverse of `take_view`.

    Args:
        shape: the parameter's own shape.
        pieces: views that hold every entry once, with `[*view.shape, *features]`.
    """
    (first, tensor), numel = pieces[0], math.prod(shape)
    features = tensor.shape[len(first.shape) :]
    if first.numel == numel and first == View.contiguous(*first.shape):
        return tensor.reshape((*shape, *features))
    cuts = [_find_cut(view, numel) for view, _ in pieces]
    axis = _seam(cuts)
    if axis is None:
        places = torch.cat([_entries(view, tensor.device) for view, _ in pieces])
        order = torch.empty_like(places)
        order[places] = torch.arange(numel, device=tensor.device)
        flat = [item.reshape(view.numel, *features) for view, item in pieces]
        return torch.cat(flat)[order].reshape((*shape, *features))
    bands = [
        (cut.starts[axis], _permuted(item, cut.order).reshape(*cut.lengths, *features))
        for cut, (_, item) in zip(cuts, pieces, strict=True)
        if cut is not None
    ]
    bands.sort(key=operator.itemgetter(0))
    joined = bands[0][1] if len(bands) == 1 else torch.cat([b for _, b in bands], axis)
    return joined.reshape((*shape, *features))


def merged_strides(view: View, *, lead: int) -> tuple[int, ...] | None:
    """Return strides with all axes after the first `lead` as one; None if they differ.

    Args:
        view: some entries of a parameter.
        lead: number of axes before the cells.
    """
    cells = zip(view.shape[lead:], view.strides[lead:], strict=True)
    cells = [(length, stride) for length, stride in cells if length > 1]
    for (_, outer), (length, inner) in itertools.pairwise(cells):
        if outer != length * inner:
            return None
    return *view.strides[:lead], cells[-1][1] if cells else 1


@dataclass(frozen=True, slots=True)
class _Cut:
    """A view as a box in a grid: reshape to `grid`, narrow each axis, permute."""

    grid: tuple[int, ...]
    """Shape of the flat parameter for which the view is a box."""
    starts: tuple[int, ...]
    """Where the box starts on each axis of the grid."""
    lengths: tuple[int, ...]
    """How long it is there."""
    order: tuple[int, ...]
    """The view's axes from the largest stride to the smallest."""


def _find_cut(view: View, numel: int) -> _Cut | None:
    """Return how to reach a view without an index, or None if there is no way."""
    order = sorted(
        range(len(view.shape)),
        # An axis of length one can go anywhere; last, it splits no run.
        key=lambda axis: (view.shape[axis] == 1, -view.strides[axis]),
    )
    runs: list[tuple[int, int]] = []  # (length, stride), contiguous axes merged
    for axis in order:
        length, stride = view.shape[axis], view.strides[axis]
        if length == 1:
            continue
        if runs and runs[-1][1] == length * stride:
            length *= runs.pop()[0]
        runs.append((length, stride))
    if not runs or runs[-1][1] != 1:
        runs.append((1, 1))
    outer, rest = numel, view.offset
    grid, starts = [], []
    for length, stride in runs:
        extent, remainder = divmod(outer, stride) if stride > 0 else (0, 1)
        start, rest = divmod(rest, max(stride, 1))
        if remainder or start + length > extent:
            return None
        grid.append(extent)
        starts.append(start)
        outer = stride
    lengths = tuple(length for length, _ in runs)
    return _Cut(tuple(grid), tuple(starts), lengths, tuple(order))


def _seam(cuts: list[_Cut | None]) -> int | None:
    """Return the axis along which the boxes, joined, fill one grid, if there is one."""
    first = cuts[0]
    if first is None or any(cut is None or cut.grid != first.grid for cut in cuts):
        return None
    for axis in range(len(first.grid)):
        others_whole = all(
            cut is not None and cut.lengths[other] == extent
            for cut in cuts
            for other, extent in enumerate(first.grid)
            if other != axis
        )
        if others_whole:
            return axis
    return None


def _entries(view: View, device: torch.device) -> Tensor:
    """Return the number in the flat parameter of each entry of a view, flattened."""
    index = torch.full((), view.offset, dtype=torch.int64, device=device)
    for length, stride in zip(view.shape, view.strides, strict=True):
        index = index[..., None] + stride * torch.arange(length, device=device)
    return index.flatten()


def _permuted(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """Permute the first axes; the feature axes behind them stay."""
    return tensor.permute(*order, *range(len(order), tensor.ndim))


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


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
