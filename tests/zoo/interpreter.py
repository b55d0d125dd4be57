"""Compute what a network computes from its graph alone: no module, no code of its.

Values are `[batch, neuron, *space]`. It knows linear layers, convolutions, sums and
scales, which is enough for perceptrons, convolutional networks and residual ones.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from l2o import NeuralGraph
from l2o.graph import Neurons, Operation, WeightBlock, to_blocks


def compute(
    graph: NeuralGraph, params: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> list[Tensor]:
    """Return the values of the output groups.

    Groups come in the order in which they are computed; those of role input that
    nothing feeds take the inputs one after the other.
    """
    laid, waiting = to_blocks(graph, params), list(inputs)
    values: list[Tensor] = []
    for index, group in enumerate(graph.groups):
        terms = [
            (block.target, apply_block(block, weight, read(values, block.source)))
            for block, weight in zip(graph.blocks, laid.edges, strict=True)
            if block.target.group == index
        ]
        terms += [
            (tie.target, read(values, tie.source))
            for tie in graph.ties
            if tie.target.group == index and tie.kind == "residual"
        ]
        if not terms:
            values.append(waiting.pop(0))
            continue
        value = gather(group.size, terms)
        for node, shift in zip(graph.node_parameters, laid.nodes, strict=True):
            if node.neurons.group == index:
                rows = shift[:, 0].reshape(-1, *[1] * (value.ndim - 2))
                value = value.index_add(
                    1,
                    places(node.neurons),
                    rows.expand(len(value), -1, *value.shape[2:]),
                )
        for operation in group.operations:
            value = apply_operation(operation, value)
        values.append(value)
    return [
        value
        for group, value in zip(graph.groups, values, strict=True)
        if group.role == "output"
    ]


def places(neurons: Neurons) -> Tensor:
    return torch.tensor(tuple(neurons.index))


def read(values: list[Tensor], neurons: Neurons) -> Tensor:
    return values[neurons.group][:, places(neurons)]


def gather(size: int, terms: Sequence[tuple[Neurons, Tensor]]) -> Tensor:
    """Add up what comes into a group."""
    first = terms[0][1]
    value = first.new_zeros(len(first), size, *first.shape[2:])
    for neurons, term in terms:
        value = value.index_add(1, places(neurons), term)
    return value


def apply_block(block: WeightBlock, weight: Tensor, source: Tensor) -> Tensor:
    """Return what `weight[part, target, source, cell]` makes of the sources."""
    operation = block.operation
    assert operation is not None
    settings = dict(operation.settings)
    match operation.name:
        case "linear":
            # The cells of an edge are the positions of a flattened map.
            cells = source.reshape(*source.shape[:2], -1)
            return torch.einsum("tsc,bsc->bt", weight[0], cells)
        case "conv1d" | "conv2d" | "conv3d" as name:
            kernel = weight.reshape(-1, weight.shape[2], *block.cells)
            kept = {k: settings[k] for k in ("stride", "padding", "dilation")}
            return getattr(F, name)(source, kernel, groups=block.parts, **kept)
        case "conv_transpose1d" | "conv_transpose2d" | "conv_transpose3d" as name:
            kernel = weight.transpose(1, 2).reshape(-1, weight.shape[1], *block.cells)
            names = ("stride", "padding", "output_padding", "dilation")
            kept = {k: settings[k] for k in names}
            return getattr(F, name)(source, kernel, groups=block.parts, **kept)
        case "mul":
            return source * weight.reshape(-1, *[1] * (source.ndim - 2))
        case name:
            raise NotImplementedError(name)


def apply_operation(operation: Operation, value: Tensor) -> Tensor:
    """Return what a call without parameters makes of a group's values."""
    settings = dict(operation.settings)
    if operation.name == "native_batch_norm":
        assert settings["training"]
        return F.batch_norm(value, None, None, training=True, eps=settings["eps"])
    found = getattr(torch.ops.aten, operation.name)(value, **settings)
    return found if isinstance(found, Tensor) else found[0]
