"""The neural graph: which tensor entry of a network joins which neurons.

A `NeuralGraph` is static. It knows names and shapes, never values, gradients or
learning, so one graph serves every step of a training run and every network of the
same architecture.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["input", "hidden", "output", "isolated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronGroup:
    """One channel dimension of a network: its inputs, a hidden layer, its outputs."""

    name: str
    """Human label, unique in the graph."""
    size: int
    """Number of neurons; a channel of a convolution counts as one neuron."""
    role: Role
    """Inputs and outputs are told apart one by one; hidden neurons are exchangeable.
    `isolated` marks the ends of a tensor whose place in the network is unknown."""
    depth: float = 0.0
    """Relative depth: 0 at the inputs, 1 at the outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBlock:
    """One weight tensor: a dense bipartite block of edges from source to target.

    The tensor, read in its own order, is `[target, source, cell]`: one cell for a
    linear layer, one a kernel position for a convolution, one a pixel for a linear
    layer on a flattened feature map.
    """

    parameter: str
    """Name of the weight tensor."""
    source: int
    """Index of the group that the edges leave."""
    target: int
    """Index of the group that the edges enter."""
    cells: tuple[int, ...] = ()
    """Grid of entries an edge holds, for example (3, 3); empty means one entry."""

    @property
    def num_cells(self) -> int:
        """Number of entries of one edge."""
        return math.prod(self.cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParameter:
    """One tensor with one entry a neuron: a bias, a feature of its group's nodes."""

    parameter: str
    """Name of the tensor."""
    group: int
    """Index of the group whose neurons own the entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """A tensor that stands alone in the graph because its place is in doubt."""

    parameter: str
    """Name of the tensor."""
    reason: str
    """Why it could not be placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuralGraph:
    """A network as a graph: neurons are nodes, weights are edges, biases node features.

    Every entry of every parameter has exactly one place, in a `WeightBlock` or a
    `NodeParameter`. A tensor that is listed in `unplaced` has its place too: a block
    or a group of its own (role `isolated`) that touches nothing else.

    Args:
        shapes: name to shape of every parameter, in the optimizer's order.
        groups: the neuron groups.
        blocks: the weight blocks.
        node_parameters: the biases; at most one a group.
        unplaced: the tensors whose place is in doubt, each with the reason.
        source: how the graph was found, for example "parameter shapes".

    Raises:
        ValueError: if a parameter has no place or two, if a group has two biases, or
            if a shape contradicts its groups.

    Example:
        >>> import l2o, torch
        >>> graph = l2o.neural_graph(torch.nn.Linear(3, 2))
        >>> [(group.role, group.size) for group in graph.groups]
        [('input', 3), ('output', 2)]

    Reference:
        Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143,
        section 3.
    """

    shapes: dict[str, tuple[int, ...]]
    groups: tuple[NeuronGroup, ...]
    blocks: tuple[WeightBlock, ...]
    node_parameters: tuple[NodeParameter, ...]
    unplaced: tuple[Unplaced, ...] = ()
    source: str = "given"

    def __post_init__(self) -> None:
        owners = [*self.blocks, *self.node_parameters]
        counts = Counter(owner.parameter for owner in owners)
        for name in self.shapes.keys() | counts.keys():
            if name not in self.shapes or counts[name] != 1:
                raise ValueError(
                    "NeuralGraph needs exactly one place for every parameter; got "
                    f"{counts[name]} for {name!r} (in shapes: {name in self.shapes}). "
                    "List each parameter once, in blocks or in node_parameters."
                )
        for block in self.blocks:
            entries = (
                self.groups[block.target].size
                * self.groups[block.source].size
                * block.num_cells
            )
            self._check_size(block.parameter, entries)
        for node in self.node_parameters:
            self._check_size(node.parameter, self.groups[node.group].size)
        owned = Counter(node.group for node in self.node_parameters)
        if owned and max(owned.values()) > 1:
            raise ValueError(
                "NeuralGraph needs at most one node parameter a group; got "
                f"{dict(owned)} (group index: count). Give each its own group."
            )

    def _check_size(self, name: str, entries: int) -> None:
        shape = self.shapes[name]
        if math.prod(shape) != entries:
            raise ValueError(
                f"NeuralGraph needs groups that match the shape of {name!r}; got "
                f"shape {shape} for {entries} entries. Check its groups and cells."
            )

    @property
    def num_parameters(self) -> int:
        """Number of parameter entries."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def placed_share(self) -> float:
        """Share of the parameter entries whose place is certain, in [0, 1]."""
        loose = sum(math.prod(self.shapes[item.parameter]) for item in self.unplaced)
        return 1.0 - loose / max(self.num_parameters, 1)

    def describe(self) -> str:
        """Return a plain-text table of the groups, the blocks and what is unplaced."""
        lines = [
            f"NeuralGraph from {self.source}: {self.num_parameters:,} parameters, "
            f"{self.placed_share:.1%} placed",
            "groups:",
        ]
        lines += [
            f"  {index:3d} {group.name:<24} {group.role:<8} {group.size:6d} neurons"
            for index, group in enumerate(self.groups)
        ]
        lines.append("blocks:")
        lines += [
            f"  {block.parameter:<28} {self.groups[block.source].name} -> "
            f"{self.groups[block.target].name}"
            + (f", {'x'.join(map(str, block.cells))} cells" if block.cells else "")
            for block in self.blocks
        ]
        lines += [
            f"  {node.parameter:<28} on {self.groups[node.group].name}"
            for node in self.node_parameters
        ]
        if self.unplaced:
            lines.append("unplaced:")
            lines += [f"  {item.parameter}: {item.reason}" for item in self.unplaced]
        return "\n".join(lines)
