"""Which parameters are linear maps, and how many inputs each output reads."""

import math

from .caching import derived
from .neural_graph import NeuralGraph, WeightBlock


@derived
def fan_ins(graph: NeuralGraph) -> dict[str, int]:
    """Return the number of new inputs per output of each linear map, by parameter.

    A convolution reads most of its inputs again at the next position, so of a kernel
    only as many cells count as the stride is long: a 3 x 3 kernel counts like a 1 x 1
    one, and a patch embedding like a matrix. Where no call is known, every cell counts.

    Matrices and kernels are maps. Lookup tables, position tables, scales of single
    neurons and vectors are not, whatever their number of axes. Where a tensor serves as
    a table and as a map, its owner in the graph decides.

    Args:
        graph: the neural graph of the parameters.
    """
    found: dict[str, int] = {}
    for block in graph.blocks:
        if not block.is_alias and _is_map(graph, block):
            found.setdefault(block.parameter, _fan_in(block))
    return found


def _is_map(graph: NeuralGraph, block: WeightBlock) -> bool:
    """Return whether a block joins neurons by a matrix or a kernel."""
    if len(graph.shapes[block.parameter]) < 2:
        return False
    if block.operation is not None and block.operation.name == "embedding":
        return False
    return block.parts == 1 or math.prod(block.view.shape[1:]) > 1


def _fan_in(block: WeightBlock) -> int:
    """Return the number of new inputs of a block at each position."""
    cells, call = block.cells, block.operation
    if call is not None and call.name.startswith("conv"):
        strides = dict(call.settings)["stride"]
        cells = [min(pair) for pair in zip(cells, strides, strict=True)]
    return block.view.shape[2] * math.prod(cells)
