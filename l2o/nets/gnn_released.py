"""NG-GNN with the fault of the paper's released code, to measure what it costs."""

from torch import Tensor
from typing_extensions import override

from l2o.graph import NeuralGraph

from .entries import Entries
from .gnn import NGGNNNet


class ReleasedNGGNNNet(NGGNNNet):
    """NG-GNN whose biases read the wrong neuron.

    The released read-out of node outputs starts at the first input neuron, where there
    are no biases, instead of the first hidden one. So each bias reads the neuron that
    stands as many places before its own as the network has inputs.

    Reference:
        Kofinas et al., 2024, released code.
    """

    _offset: int = 0

    @override
    def forward(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry and write its outputs."""
        inputs = (group for group in graph.groups if group.role == "input")
        self._offset = sum(group.size for group in inputs)
        super().forward(graph, entries, context)

    @override
    def write_nodes(self, entries: Entries, context: Tensor, nodes: Tensor) -> None:
        """Write the outputs of all node parameters from the wrong node states."""
        super().write_nodes(entries, context, nodes.roll(self._offset, dims=0))
