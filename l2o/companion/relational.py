"""NG-T over a batch: every network as a full graph between its neurons."""

import torch
from torch import Tensor, nn

from l2o.nets.transformer import RelationalLayer

from .config import NGTBackboneConfig
from .inputs import Encoded
from .states import EdgeStates, States
from .wiring import Fan, Wiring


class RelationalBackbone(nn.Module):
    """NG-T: attention between all neurons of a network, in all networks at once.

    Neurons that nothing joins see each other through an edge like any other, whose
    first state is that of the weight zero. Networks of different sizes are padded, and
    what is padded takes no part.

    Args:
        config: sizes.
        has_last_edges: whether the edges follow the last layer, too.

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

    def forward(self, encoded: Encoded) -> States:
        """Return the last states."""
        wiring = encoded.wiring
        nodes = wiring.spread(encoded.nodes)
        edges = _full_graphs(encoded)
        is_real = None if wiring.is_even else wiring.is_real
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, is_real)
        flat = edges.flatten(0, 2)
        along = wiring.fans[: wiring.num_forward]
        found = [flat[_pairs(wiring, fan)] for fan in along]
        return States(nodes.flatten(0, 1)[wiring.slots], EdgeStates(found))


def _full_graphs(encoded: Encoded) -> Tensor:
    """Return all edges, `[network, i, j, width]`, from neuron i to neuron j.

    Where several edges join two neurons, what they add to having none is summed.
    """
    wiring, none = encoded.wiring, encoded.no_edge
    networks, size = wiring.is_real.shape
    flat = none.expand(networks * size * size, -1)
    index = torch.cat([_pairs(wiring, fan).flatten() for fan in wiring.fans])
    states = torch.cat([edges.flatten(0, 2) for edges in encoded.edges])
    return flat.index_add(0, index, states - none).view(networks, size, size, -1)


def _pairs(wiring: Wiring, fan: Fan) -> Tensor:
    """Return where a fan's edges stand among all pairs, `[part, receiver, sender]`."""
    size = wiring.is_real.shape[1]
    first = wiring.slots[fan.senders] * size
    return first[:, None, :] + wiring.slots[fan.receivers][:, :, None] % size
