"""Plain chains: layers of one weight and at most one bias, in sequence.

Neural functionals and DWSNets have weights of their own for every layer, so they read
one architecture: linear or convolutional layers, one after another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from l2o.graph import NeuralGraph, derived
from l2o.graph.layout import put_views, take_view
from l2o.graph.neural_graph import Neurons, NodeParameter, WeightBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The layers of a chain, in order.

    Example:
        >>> import l2o
        >>> from torch import nn
        >>> graph = l2o.neural_graph(nn.Sequential(nn.Conv2d(2, 8, 3), nn.Linear(8, 4)))
        >>> chain = find_chain(graph)
        >>> chain.sizes, chain.num_cells
        ((2, 8, 4), (9, 1))
    """

    sizes: tuple[int, ...]
    """Neurons of the inputs, of each hidden layer and of the outputs."""
    weights: tuple[int, ...]
    """For each layer, which of the graph's blocks."""
    biases: tuple[int | None, ...]
    """For each layer, which of the graph's node parameters; None where it has none."""
    graph: NeuralGraph
    """The graph that holds them."""

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.weights)

    @property
    def num_cells(self) -> tuple[int, ...]:
        """Entries per edge, for each layer: the positions of a kernel, or 1."""
        return tuple(self.graph.blocks[index].num_cells for index in self.weights)

    def lay(self, tensors: Mapping[str, Tensor]) -> "list[Tensor | None]":
        """Lay a batch of networks on the chain.

        Args:
            tensors: name to `[batch, *shape]`, or `[batch, *shape, channel]`.

        Returns:
            Weight and bias of each layer in turn: `[batch, target, source, cell,
            channel]` and `[batch, neuron, 1, channel]`; None for an absent bias. Views
            where strides allow.
        """
        found: list[Tensor | None] = []
        for place in self.places():
            if place is None:
                found.append(None)
                continue
            shape = self.graph.shapes[place.parameter]
            values = tensors[place.parameter]
            if values.ndim == 1 + len(shape):
                values = values[..., None]
            is_weight = isinstance(place, WeightBlock)
            laid = take_view(
                values.movedim(0, -2), shape, place.view, lead=3 if is_weight else 1
            )
            laid = laid.movedim(-2, 0)
            found.append(laid[:, 0] if is_weight else laid)
        return found

    def collect(self, laid: "list[Tensor | None]") -> dict[str, Tensor]:
        """Return one tensor per parameter: the inverse of `lay`.

        Args:
            laid: as `lay` returns, with one channel or several.

        Returns:
            Name to `[batch, *shape]`, with a last axis where there are several
            channels; in the graph's order.
        """
        found = {}
        for place, values in zip(self.places(), laid, strict=True):
            if place is not None:
                assert values is not None
                batch, channels = values.shape[0], values.shape[-1]
                cells = values.movedim(0, -2)
                whole = cells.reshape(*place.view.shape, batch, channels)
                shape = self.graph.shapes[place.parameter]
                tensor = put_views(shape, [(place.view, whole)]).movedim(-2, 0)
                found[place.parameter] = tensor[..., 0] if channels == 1 else tensor
        return {name: found[name] for name in self.graph.shapes}

    def places(self) -> "list[WeightBlock | NodeParameter | None]":
        """Return where each layer's weight and bias lie, in turn."""
        places: list[WeightBlock | NodeParameter | None] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            places.append(self.graph.blocks[weight])
            places.append(None if bias is None else self.graph.node_parameters[bias])
        return places


def find_chain(graph: NeuralGraph) -> Chain | None:
    """Return a graph's layers in order, or None if it is not a plain chain."""
    if graph.ties or graph.unplaced or not graph.blocks:
        return None
    above = {block.source.group: index for index, block in enumerate(graph.blocks)}
    entered = {block.target.group for block in graph.blocks}
    starts = [group for group in above if group not in entered]
    if min(len(above), len(entered)) < len(graph.blocks) or len(starts) != 1:
        return None  # a branch, a join or a cycle
    on_group = {node.neurons.group: i for i, node in enumerate(graph.node_parameters)}
    group, groups, weights = starts[0], [starts[0]], []
    while group in above:
        weights.append(above[group])
        group = graph.blocks[above[group]].target.group
        groups.append(group)
    biases = tuple(on_group.get(group) for group in groups[1:])
    is_whole = all(
        _is_whole(graph, block.source) and _is_whole(graph, block.target)
        for block in graph.blocks
    )
    is_plain = (
        is_whole
        and len(weights) == len(graph.blocks)
        and sum(bias is not None for bias in biases) == len(graph.node_parameters)
        and not any(block.is_alias or block.parts > 1 for block in graph.blocks)
        and all(
            _is_whole(graph, node.neurons) and node.num_cells == 1
            for node in graph.node_parameters
        )
        and all(
            _is_all_of(graph, place)
            for place in (*graph.blocks, *graph.node_parameters)
        )
    )
    if not is_plain:
        return None
    return Chain(
        sizes=tuple(graph.groups[group].size for group in groups),
        weights=tuple(weights),
        biases=biases,
        graph=graph,
    )


@derived
def require_chain(graph: NeuralGraph, owner: str, most: int | None = None) -> Chain:
    """Return a graph's layers in order.

    Args:
        graph: the neural graph.
        owner: public name for the error message.
        most: largest number of layers; None for no limit.

    Raises:
        ValueError: if the graph is not a plain chain, or has too many layers.
    """
    chain = find_chain(graph)
    if chain is None or (most is not None and chain.depth > most):
        wanted = "a plain chain of linear or convolutional layers"
        came = (
            f"{len(graph.blocks)} blocks, {len(graph.ties)} ties and "
            f"{len(graph.unplaced)} unplaced tensors ({graph.source})"
            if chain is None
            else f"{chain.depth} layers"
        )
        limit = "" if most is None else f", at most {most} of them"
        raise ValueError(
            f"{owner} needs {wanted}{limit}; got {came}. Use NG-GNN, which reads any "
            "graph."
        )
    return chain


def _is_whole(graph: NeuralGraph, neurons: Neurons) -> bool:
    """Return whether these are all neurons of their group, in order."""
    return tuple(neurons.index) == tuple(range(graph.groups[neurons.group].size))


def _is_all_of(graph: NeuralGraph, place: WeightBlock | NodeParameter) -> bool:
    """Return whether a place holds all entries of its parameter."""
    return place.view.numel == prod(graph.shapes[place.parameter])
