"""A configuration that fits given networks."""

from collections.abc import Sequence

import torch

from l2o.graph import NeuralGraph

from .config import CompanionConfig, InputsConfig, NGGNNBackboneConfig, ReadoutConfig
from .flattened import num_places
from .reach import parameters_off_the_way
from .roles import activation_of
from .union_graph import degrees, node_channels


def infer_config(
    graphs: NeuralGraph | Sequence[NeuralGraph],
    *,
    width: int = 64,
    layers: int = 4,
    dropout: float = 0.0,
    num_probes: int = 0,
    probe_shape: tuple[int, ...] = (),
) -> CompanionConfig:
    """Return an NG-GNN that reads networks of some architectures.

    Sizes, kernels, activations, entries per neuron and the typical degree are those of
    the graphs. Messages run both ways where some parameters lead to no output. Output
    neurons are read one by one where all networks have equally many, else their mean.

    Args:
        graphs: one architecture, or all.
        width: channels of a neuron's and an edge's state.
        layers: message-passing layers; a parameter that is more layers from the outputs
            reaches them only if messages run both ways and neurons are averaged.
        dropout: share of node channels that are dropped in training.
        num_probes: learned inputs that the networks are run on, see `ModuleValues`.
        probe_shape: (height, width) of a probe where the networks read images.

    Example:
        >>> import l2o
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 2))
        >>> config = infer_config(l2o.neural_graph(model, torch.zeros(1, 3)))
        >>> config.inputs.num_inputs, config.inputs.activations
        (3, ('elu',))
    """
    found = [graphs] if isinstance(graphs, NeuralGraph) else list(graphs)
    both_ways = any(parameters_off_the_way(graph, True) for graph in found)
    counts = {_size(graph, "output") for graph in found}
    degree = torch.cat([degrees(graph, both_ways=both_ways) for graph in found])
    return CompanionConfig(
        inputs=InputsConfig(
            num_inputs=max(_size(graph, "input") for graph in found),
            num_hidden=max(_hidden(graph) for graph in found),
            num_outputs=max(counts),
            kernel=_kernel(found),
            reversed_edges=both_ways,
            activations=tuple(
                dict.fromkeys(
                    activation_of(group)
                    for graph in found
                    for group in graph.groups
                    if group.role == "hidden"
                )
            ),
            node_channels=max(_channels(graph) for graph in found),
            num_places=max(map(num_places, found)),
            num_probes=num_probes,
            probe_shape=probe_shape,
        ),
        backbone=NGGNNBackboneConfig(
            width=width,
            layers=layers,
            dropout=dropout,
            typical_log_degree=float(degree.double().log1p().mean()),
        ),
        readout=ReadoutConfig(
            width=width, pooling="outputs" if len(counts) == 1 else "mean"
        ),
    )


def _size(graph: NeuralGraph, role: str) -> int:
    """Return how many neurons of a role a network has."""
    return sum(group.size for group in graph.groups if group.role == role)


def _hidden(graph: NeuralGraph) -> int:
    return sum(group.role == "hidden" for group in graph.groups)


def _channels(graph: NeuralGraph) -> int:
    """Return how many entries a neuron has at most; 1 if none has any."""
    pairs = zip(graph.node_parameters, node_channels(graph), strict=True)
    return max((first + node.num_cells for node, first in pairs), default=1)


def _kernel(graphs: list[NeuralGraph]) -> tuple[int, ...]:
    """Return the largest kernel along each axis; a row has height 1."""
    grids = {block.cells for graph in graphs for block in graph.blocks}
    axes = max([2, *map(len, grids)])
    padded = [(1,) * (axes - len(cells)) + cells for cells in grids]
    return tuple(max([1, *sizes]) for sizes in zip(*padded, strict=True)) or (1, 1)
