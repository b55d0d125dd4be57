"""NG-T with the fault of the paper's released code, to measure what it costs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from .config import NGTConfig
from .net import NetSizes
from .ng_t import NGTNet


class ReleasedNGTNet(NGTNet):
    """NG-T whose parameters read a wrong neuron or a wrong edge.

    The released code puts a learned token before the neurons, joins it to them by edges
    of zeros, and never removes it, so a bias reads the neuron before its own, and a
    weight the edge between the neurons before its ends. With the published sizes it has
    78,466 weights, the token's 32 among them: the published ones but for the table of
    positions.

    Args:
        config: sizes and variants.
        sizes: channels in and out.

    Reference:
        Kofinas et al., 2024, released code.
    """

    def __init__(self, config: NGTConfig, sizes: NetSizes) -> None:
        super().__init__(config, sizes)
        self.token = nn.Parameter(torch.randn(config.width))

    @override
    def attend(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last states, shifted by one place."""
        nodes = torch.cat([self.token[None], nodes])
        nodes, edges = super().attend(nodes, F.pad(edges, (0, 0, 1, 0, 1, 0)))
        return nodes[:-1], edges[:-1, :-1]
