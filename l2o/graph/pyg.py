"""The neural graph as a `Data` of PyTorch Geometric, and back, exactly."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .layout import Blocks, from_blocks, to_blocks
from .neural_graph import NeuralGraph, Neurons, WeightBlock

if TYPE_CHECKING:
    from torch_geometric.data import Data

NODE_TYPES = ("input", "hidden", "output", "isolated")
"""What the numbers of `Data.node_type` mean: roles of neuron groups."""

EDGE_TYPES = ("weight", "alias", "residual", "gate", "dot", "move")
"""What the numbers of `Data.edge_type` mean: a weight, a weight whose entries another
edge owns, and the kinds of `Tie`."""


def to_pyg(graph: NeuralGraph, tensors: Mapping[str, Tensor] | None = None) -> "Data":
    """Return the graph as one `torch_geometric.data.Data`.

    Nodes are neurons, group after group. Edges are the weights, block after block and
    in the order `[part, target, source]`, then the ties; each points from source to
    target. N neurons, E edges; C cells of the largest edge and K of the neuron with the
    most; what is smaller is padded with zeros at the end.

    ==============  ==================  ================================================
    `node_type`     `[N]`               index into `NODE_TYPES`
    `node_group`    `[N]`               index into `graph.groups`
    `edge_index`    `[2, E]`            source and target of every edge
    `edge_type`     `[E]`               index into `EDGE_TYPES`
    `edge_block`    `[E]`               index into `graph.blocks`; ties count on from
                                        there
    `edge_cells`    `[E]`               entries of the edge; 0 for a tie
    `x`             `[N, K, *features]` entries of node parameters, in the graph's order
    `edge_attr`     `[E, C, *features]` entries of weights, aliases included
    ==============  ==================  ================================================

    Args:
        graph: the neural graph.
        tensors: name to `[*shape, *features]`, the parameter's own shape first: its
            values, or several features per entry. None leaves out `x` and `edge_attr`.

    Returns:
        The graph on the tensors' device; autograd passes through to them.

    Raises:
        ModuleNotFoundError: if `torch_geometric` is missing.

    Example:
        >>> import l2o, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> graph = l2o.neural_graph(model)
        >>> data = to_pyg(graph, dict(model.named_parameters()))
        >>> data.num_nodes, data.num_edges, data.x.shape, data.edge_attr.shape
        (5, 6, torch.Size([5, 1]), torch.Size([6, 1]))
    """
    from torch_geometric.data import Data

    offsets = _offsets(graph)
    ends = [_ends(block, offsets) for block in graph.blocks]
    ends += [
        torch.stack([_nodes(tie.source, offsets), _nodes(tie.target, offsets)])
        for tie in graph.ties
    ]
    kinds = ["alias" if block.is_alias else "weight" for block in graph.blocks]
    kinds += [tie.kind for tie in graph.ties]
    cells = [block.num_cells for block in graph.blocks] + [0] * len(graph.ties)
    sizes = [group.size for group in graph.groups]
    roles = [NODE_TYPES.index(group.role) for group in graph.groups]
    counts = [pair.shape[1] for pair in ends]
    data = Data(
        num_nodes=sum(sizes),
        node_type=_repeat(roles, sizes),
        node_group=_repeat(range(len(sizes)), sizes),
        edge_index=torch.cat([torch.zeros(2, 0, dtype=torch.long), *ends], dim=1),
        edge_type=_repeat([EDGE_TYPES.index(kind) for kind in kinds], counts),
        edge_block=_repeat(range(len(counts)), counts),
        edge_cells=_repeat(cells, counts),
    )
    if tensors:
        data = data.to(next(iter(tensors.values())).device)
        blocks = to_blocks(graph, tensors)
        data.x = _join_nodes(graph, blocks, offsets)
        data.edge_attr = _join_edges(graph, blocks, sum(counts))
    return data


def from_pyg(graph: NeuralGraph, data: "Data") -> dict[str, Tensor]:
    """Return each parameter's own tensor from `x` and `edge_attr`.

    The exact inverse of `to_pyg`. What aliases and padding hold is ignored.

    Args:
        graph: the neural graph that `data` was made from.
        data: nodes and edges in their order; any number of features.

    Returns:
        Name to `[*shape, *features]`; autograd passes through.

    Raises:
        ValueError: if `data` is not of this graph, or holds no values.
    """
    offsets = _offsets(graph)
    num_edges = sum(_num_edges(block) for block in graph.blocks) + sum(
        len(tie.source) for tie in graph.ties
    )
    x, edge_attr = data.x, data.edge_attr
    wanted = (offsets[-1], num_edges)
    found = tuple(None if values is None else len(values) for values in (x, edge_attr))
    if x is None or edge_attr is None or found != wanted:
        raise ValueError(
            f"from_pyg needs x and edge_attr of {wanted[0]} nodes and {wanted[1]} "
            f"edges; got {found[0]} and {found[1]}. Pass the graph and the Data that "
            "to_pyg(graph, tensors) made of it."
        )
    edges, start = [], 0
    for block in graph.blocks:
        rows = edge_attr[start : start + _num_edges(block), : block.num_cells]
        edges.append(rows.reshape(*block.view.shape[:3], *rows.shape[1:]))
        start += _num_edges(block)
    nodes = [
        x[_nodes(node.neurons, offsets).to(x.device), slot : slot + node.num_cells]
        for node, slot in zip(graph.node_parameters, _slots(graph), strict=True)
    ]
    return from_blocks(graph, Blocks(tuple(edges), tuple(nodes)))


def _offsets(graph: NeuralGraph) -> list[int]:
    """Return the number of each group's first node, and of all nodes at the end."""
    offsets = [0]
    for group in graph.groups:
        offsets.append(offsets[-1] + group.size)
    return offsets


def _nodes(neurons: Neurons, offsets: list[int]) -> Tensor:
    """Return the node numbers of some neurons."""
    index = neurons.index
    if isinstance(index, range):
        local = torch.arange(len(index)) * index.step + index.start
    else:
        local = torch.tensor(index, dtype=torch.long)
    return local + offsets[neurons.group]


def _num_edges(block: WeightBlock) -> int:
    return math.prod(block.view.shape[:3])


def _ends(block: WeightBlock, offsets: list[int]) -> Tensor:
    """Return the source and the target of every edge of a block: `[2, E]`."""
    shape = parts, targets, sources = block.view.shape[:3]
    source = _nodes(block.source, offsets).reshape(parts, 1, sources).expand(shape)
    target = _nodes(block.target, offsets).reshape(parts, targets, 1).expand(shape)
    return torch.stack([source.flatten(), target.flatten()])


def _repeat(values: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Return each value as often as its count says."""
    counted = torch.tensor(counts, dtype=torch.long)
    return torch.tensor(values, dtype=torch.long).repeat_interleave(counted)


def _slots(graph: NeuralGraph) -> list[int]:
    """Return where in its neurons' entries each node parameter begins."""
    filled = [0] * len(graph.groups)
    slots = []
    for node in graph.node_parameters:
        slots.append(filled[node.neurons.group])
        filled[node.neurons.group] += node.num_cells
    return slots


def _join_nodes(graph: NeuralGraph, blocks: Blocks, offsets: list[int]) -> Tensor:
    slots = _slots(graph)
    ends = [
        slot + node.num_cells
        for slot, node in zip(slots, graph.node_parameters, strict=True)
    ]
    like = (*blocks.nodes, *blocks.edges)[0]
    features = like.shape[2 if blocks.nodes else 4 :]
    dtype = functools.reduce(
        torch.promote_types, (values.dtype for values in blocks.nodes), like.dtype
    )
    x = like.new_zeros(offsets[-1], max(ends, default=0), *features, dtype=dtype)
    for node, slot, values in zip(
        graph.node_parameters, slots, blocks.nodes, strict=True
    ):
        rows = _nodes(node.neurons, offsets).to(x.device)
        x[rows, slot : slot + node.num_cells] = values.to(dtype)
    return x


def _join_edges(graph: NeuralGraph, blocks: Blocks, num_edges: int) -> Tensor:
    width = max((block.num_cells for block in graph.blocks), default=0)
    rows = [_padded(values.flatten(0, 2), width) for values in blocks.edges]
    like = (*blocks.edges, *blocks.nodes)[0]
    features = like.shape[4 if blocks.edges else 2 :]
    ties = num_edges - sum(len(row) for row in rows)
    return torch.cat([*rows, like.new_zeros(ties, width, *features)])


def _padded(values: Tensor, width: int) -> Tensor:
    """Append zeros to axis 1 up to a width."""
    behind = [0, 0] * (values.ndim - 2) + [0, width - values.shape[1]]
    return F.pad(values, behind)
