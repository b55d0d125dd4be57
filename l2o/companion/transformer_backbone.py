"""NG-T over a batch: every network as a full graph between its neurons."""

import torch
from torch import Tensor, nn

from l2o.nets.transformer import RelationalLayer

from .config import NGTBackboneConfig
from .fan_states import FanStates, LastStates
from .network_inputs import Encoded
from .union_graph import Fan, UnionGraph


class TransformerBackbone(nn.Module):
    """NG-T: attention between all neurons of a network, in all networks at once.

    Neurons without an edge between them see each other through an edge state like any
    other, which starts as that of the weight zero. Networks of different sizes are
    padded, and nothing attends to padding.

    Args:
        config: sizes.
        has_last_edges: whether the last layer updates the edges, too.

    Reference:
        Kofinas et al., 2024, section 3.3 and Eq. 5.
    """

    def __init__(self, config: NGTBackboneConfig, *, has_last_edges: bool) -> None:
        super().__init__()
        last = config.layers - 1
        self.layers = nn.ModuleList(
            RelationalLayer(
                config.layer, has_edge_update=has_last_edges or index < last
            )
            for index in range(config.layers)
        )

    def forward(self, encoded: Encoded) -> LastStates:
        """Return the last states."""
        graph = encoded.graph
        nodes = graph.pad(encoded.nodes)
        edges = _full_graphs(encoded)
        is_real = None if graph.is_even else graph.is_real
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, is_real)
        flat = edges.flatten(0, 2)
        along = graph.fans[: graph.num_forward]
        found = [flat[_pairs(graph, fan)] for fan in along]
        return LastStates(nodes.flatten(0, 1)[graph.padded], FanStates(graph, found))


def _full_graphs(encoded: Encoded) -> Tensor:
    """Return all edges, `[network, i, j, width]`, from neuron i to neuron j.

    Where several edges join two neurons, their differences from no edge are summed.
    """
    graph, none = encoded.graph, encoded.no_edge
    networks, size = graph.is_real.shape
    flat = none.expand(networks * size * size, -1)
    index = torch.cat([_pairs(graph, fan).flatten() for fan in graph.fans])
    states = torch.cat([edges.flatten(0, 2) for edges in encoded.edges])
    return flat.index_add(0, index, states - none).view(networks, size, size, -1)


def _pairs(graph: UnionGraph, fan: Fan) -> Tensor:
    """Return the index among all pairs of a fan's edges, `[part, receiver, sender]`."""
    size = graph.is_real.shape[1]
    first = graph.padded[fan.senders] * size
    return first[:, None, :] + graph.padded[fan.receivers][:, :, None] % size
