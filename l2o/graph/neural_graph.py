"""The neural graph: which tensor entry of a network joins which neurons.

A `NeuralGraph` is static. It knows names and shapes, never values, gradients or
learning, so one graph serves every step of a training run and every network of the
same architecture. It consists of

* `NeuronGroup`: one channel dimension, such as the inputs or a hidden layer;
* `WeightBlock`: a dense bipartite piece of a weight, edges from neurons of one group to
  neurons of another, as a strided view of the parameter;
* `NodeParameter`: entries that belong to neurons, such as a bias;
* `Tie`: edges without a weight, such as a residual sum;
* `Symmetry`: neurons that may change places without changing the network's function.

Every entry of every parameter has exactly one place, in a block or a node parameter.
"""

import itertools
import math
import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Role: TypeAlias = Literal["input", "hidden", "output", "isolated"]
TieKind: TypeAlias = Literal["residual", "gate", "dot", "move"]
Index: TypeAlias = range | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call that the network makes, with the settings that shape alone hides."""

    name: str
    """Operator's name, for example "relu" or "conv2d"."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Argument names and values, for example (("stride", (2, 2)),)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronGroup:
    """One channel dimension of a network: its inputs, a hidden layer, its outputs."""

    name: str
    """Human label, unique in the graph."""
    size: int
    """Number of neurons; a channel of a convolution counts as one neuron."""
    role: Role
    """Inputs and outputs (positions of a sequence and tokens of a vocabulary too) are
    told apart one by one; hidden neurons are exchangeable, within `symmetries`.
    `isolated` marks the ends of a tensor whose place in the network is unknown."""
    depth: float = 0.0
    """Relative depth: 0 at the inputs, 1 at the outputs."""
    operations: tuple[Operation, ...] = ()
    """What is applied to the neurons' values, in order: normalisation, activation,
    pooling."""


@dataclass(frozen=True, slots=True)
class Neurons:
    """Some neurons of one group, in order, each at most once."""

    group: int
    """Index of the group."""
    index: Index
    """Which of its neurons."""

    def __len__(self) -> int:
        return len(self.index)

    def fit(self, size: int) -> bool:
        """Return whether a group of `size` neurons has them all, each once."""
        index = self.index
        if isinstance(index, range):  # its ends say it all
            return not index or (index[0] in range(size) and index[-1] in range(size))
        return len(set(index)) == len(index) and all(0 <= i < size for i in index)


@dataclass(frozen=True, slots=True)
class View:
    """Which entries of a parameter form a block, as strides over the flat parameter.

    Entry (i, j, ...) of the block is entry `offset + i * strides[0] + j * strides[1] +
    ...` of the parameter, flattened in its own (contiguous) order. So packed
    projections, gates and transposed weights are only other strides.
    """

    shape: tuple[int, ...]
    """Shape of the block."""
    strides: tuple[int, ...]
    """Steps along the flat parameter, one per axis."""
    offset: int = 0
    """Where the block starts."""

    @classmethod
    def contiguous(cls, *shape: int) -> "View":
        """Return the view of a whole parameter in its own order."""
        steps = itertools.accumulate(reversed(shape[1:]), operator.mul, initial=1)
        return cls(shape, tuple(reversed(list(steps))))

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBlock:
    """A dense bipartite block of edges from some neurons to others.

    The edges form `[part, target, source, cell]`. One part is an ordinary layer; a
    grouped convolution has `parts` independent ones, each joining its run of targets to
    its run of sources; a norm's scale or a depthwise convolution has one part per
    neuron. One cell is a linear layer; a convolution has one cell per kernel position,
    a linear layer on a flattened map one per pixel.
    """

    parameter: str
    """Name of the weight tensor."""
    source: Neurons
    """Neurons that the edges leave, `parts` equal runs."""
    target: Neurons
    """Neurons that the edges enter, `parts` equal runs."""
    view: View
    """Where the entries lie: axes (part, target, source, *cells)."""
    is_alias: bool = False
    """Whether another block owns the entries (tied weights): such a block carries
    messages, and its entries are updated through their owner."""
    operation: Operation | None = None
    """The call that uses the weight."""

    @property
    def parts(self) -> int:
        """Number of independent parts."""
        return self.view.shape[0]

    @property
    def cells(self) -> tuple[int, ...]:
        """Grid of entries per edge, for example (3, 3); empty means one entry."""
        return self.view.shape[3:]

    @property
    def num_cells(self) -> int:
        """Number of entries of one edge."""
        return math.prod(self.cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParameter:
    """Entries that belong to neurons: a bias, a position table, a class token."""

    parameter: str
    """Name of the tensor."""
    neurons: Neurons
    """The neurons that own the entries."""
    view: View
    """Where the entries lie: axes (neuron, *cells)."""

    @property
    def num_cells(self) -> int:
        """Number of entries per neuron."""
        return math.prod(self.view.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """Edges without a parameter that join neurons one to one."""

    kind: TieKind
    """`residual`: the target adds the source. `gate`: it multiplies by the source.
    `dot`: both enter one attention score (no direction). `move`: the target holds the
    source's value at some positions (a class token, a pixel shuffle)."""
    source: Neurons
    """Neurons that the edges leave."""
    target: Neurons
    """As many neurons that the edges enter, in the same order."""


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Neurons that may change places without changing what the network computes."""

    members: tuple[Neurons, ...]
    """Selections of one length. Any permutation of that length, applied to all of them
    at once, leaves the network's function as it is."""


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
    `NodeParameter`; blocks marked `is_alias` come on top. A tensor that is listed in
    `unplaced` has its place too: a block or a group of its own (role `isolated`) that
    touches nothing else.

    Args:
        shapes: name to shape of every parameter, in the optimizer's order.
        groups: the neuron groups.
        blocks: the weight blocks.
        node_parameters: biases, norm shifts, position tables.
        ties: the edges without a parameter, such as residual connections.
        symmetries: which neurons are known to be exchangeable.
        unplaced: the tensors whose place is in doubt, each with the reason.
        source: how the graph was found, for example "parameter shapes".

    Raises:
        ValueError: if entries of a parameter have no place or two, or if a shape
            contradicts its neurons.

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
    ties: tuple[Tie, ...] = ()
    symmetries: tuple[Symmetry, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    source: str = "given"
    cache: dict[tuple[object, ...], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Results of functions marked `l2o.graph.derived`, by function and arguments."""

    def __post_init__(self) -> None:
        placed: Counter[str] = Counter()
        for block in self.blocks:
            parts, targets, sources, *_ = block.view.shape
            self._check_fit(block.parameter, block.target, parts * targets, block.view)
            self._check_fit(block.parameter, block.source, parts * sources, block.view)
            if not block.is_alias:
                placed[block.parameter] += block.view.numel
        for node in self.node_parameters:
            self._check_fit(node.parameter, node.neurons, node.view.shape[0], node.view)
            placed[node.parameter] += node.view.numel
        for name in self.shapes.keys() | placed.keys():
            entries = math.prod(self.shapes.get(name, (0,)))
            if name not in self.shapes or placed[name] != entries:
                raise ValueError(
                    "NeuralGraph needs exactly one place for every entry; got "
                    f"{placed[name]} places for {entries} entries of {name!r} (in "
                    f"shapes: {name in self.shapes}). List each entry once, in blocks "
                    "or in node_parameters."
                )
        for tie in self.ties:
            if len(tie.source) != len(tie.target):
                raise ValueError(
                    "NeuralGraph needs ties between equally many neurons; got "
                    f"{len(tie.source)} and {len(tie.target)} ({tie.kind}). Join each "
                    "neuron to one other."
                )

    def _check_fit(self, name: str, neurons: Neurons, size: int, view: View) -> None:
        """Raise unless `neurons` exist, count `size`, and the view lies in `name`."""
        numel = math.prod(self.shapes.get(name, (0,)))
        last = view.offset + sum(
            (length - 1) * step
            for length, step in zip(view.shape, view.strides, strict=True)
        )
        inside = not view.numel or 0 <= view.offset <= last < numel
        group = self.groups[neurons.group]
        if len(neurons) != size or not inside or not neurons.fit(group.size):
            raise ValueError(
                f"NeuralGraph needs views that match the shape of {name!r}; got {view} "
                f"for {len(neurons)} neurons of {group.name!r} (size {group.size}) and "
                f"shape {self.shapes.get(name)}. Check its neurons, cells and strides."
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

    @property
    def num_components(self) -> int:
        """Number of pieces that no block and no tie joins, `isolated` groups apart."""
        root = list(range(len(self.groups)))

        def find(group: int) -> int:
            while root[group] != group:
                group = root[group]
            return group

        for edge in (*self.blocks, *self.ties):
            root[find(edge.source.group)] = find(edge.target.group)
        pairs = enumerate(self.groups)
        return len({find(k) for k, group in pairs if group.role != "isolated"})

    def describe(self) -> str:
        """Return a plain-text table of the groups, the blocks and what is unplaced."""
        lines = [
            f"NeuralGraph from {self.source}: {self.num_parameters:,} parameters, "
            f"{self.placed_share:.1%} placed",
            f"{len(self.groups)} groups, {len(self.blocks)} blocks, {len(self.ties)} "
            f"ties; connected components: {self.num_components}",
            "groups:",
        ]
        lines += [
            f"  {index:3d} {group.name:<24} {group.role:<8} {group.size:6d} neurons"
            for index, group in enumerate(self.groups)
        ]
        lines.append("blocks:")
        lines += [
            f"  {block.parameter:<28} {self._label(block.source)} -> "
            f"{self._label(block.target)}"
            + (f", {block.parts} parts" if block.parts > 1 else "")
            + (f", {'x'.join(map(str, block.cells))} cells" if block.cells else "")
            + (" (alias)" if block.is_alias else "")
            for block in self.blocks
        ]
        lines += [
            f"  {node.parameter:<28} on {self._label(node.neurons)}"
            for node in self.node_parameters
        ]
        if self.ties:
            lines.append("ties:")
            lines += [
                f"  {tie.kind:<28} {self._label(tie.source)} -> "
                f"{self._label(tie.target)}"
                for tie in self.ties
            ]
        if self.unplaced:
            lines.append("unplaced:")
            lines += [f"  {item.parameter}: {item.reason}" for item in self.unplaced]
        return "\n".join(lines)

    def _label(self, neurons: Neurons) -> str:
        """Return the group's name, with the selection where it is not the whole."""
        group, index = self.groups[neurons.group], neurons.index
        if index == range(group.size):
            return group.name
        if isinstance(index, range) and index.step == 1:
            return f"{group.name}[{index.start}:{index.stop}]"
        return f"{group.name}[{len(index)} of {group.size}]"
