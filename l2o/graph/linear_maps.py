"""Which parameters are linear maps, and how many numbers each reads."""

import math

from .caching import derived
from .neural_graph import NeuralGraph, WeightBlock


@derived
def fan_ins(graph: NeuralGraph) -> dict[str, int]:
    """Return how many numbers each linear map reads anew to make one, by parameter.

    A convolution reads most of its numbers again at the next position: of a kernel only
    as many cells count as it moves on, so that a 3 x 3 kernel counts like a 1 x 1 one,
    and a patch embedding like the matrix that it is. Where no call is known, every cell
    counts.

    Matrices and kernels are maps. Tables that rows are looked up in, tables of
    positions and scales of single neurons are none, whatever their number of axes, and
    neither are vectors. Where a tensor serves as a table and as a map, its owner in the
    graph decides.

    Args:
        graph: the neural graph of the parameters.
    """
    found: dict[str, int] = {}
    for block in graph.blocks:
        if not block.is_alias and _is_map(graph, block):
            found.setdefault(block.parameter, _fan_in(block))
    return found


def _is_map(graph: NeuralGraph, block: WeightBlock) -> bool:
    """Whether a block joins neurons by a matrix or a kernel."""
    if len(graph.shapes[block.parameter]) < 2:
        return False
    if block.operation is not None and block.operation.name == "embedding":
        return False
    return block.parts == 1 or math.prod(block.view.shape[1:]) > 1


def _fan_in(block: WeightBlock) -> int:
    """Return how many numbers a block reads anew at each position."""
    cells, call = block.cells, block.operation
    if call is not None and call.name.startswith("conv"):
        strides = dict(call.settings)["stride"]
        cells = [min(pair) for pair in zip(cells, strides, strict=True)]
    return block.view.shape[2] * math.prod(cells)
