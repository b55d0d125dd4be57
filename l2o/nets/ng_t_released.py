"""NG-T with the fault of the paper's released code, to measure what it costs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from .config import NGTConfig
from .ng_t import NGTNet


class ReleasedNGTNet(NGTNet):
    """NG-T whose parameters read a wrong neuron or a wrong edge.

    The released code puts a learned token before the neurons, joins it to them by edges
    of zeros, and never takes it away: so a bias reads the neuron before its own, and a
    weight the edge between the neurons before its ends. With the published sizes it has
    78,466 weights, the token's 32 among them: the published ones but for the table of
    positions.

    Args:
        config: sizes and variants.
        num_features: channels per entry.
        num_context: channels per tensor.
        num_outputs: numbers to return per entry.

    Reference:
        Kofinas et al., 2024, released code.
    """

    def __init__(
        self,
        config: NGTConfig,
        *,
        num_features: int,
        num_context: int,
        num_outputs: int,
    ) -> None:
        super().__init__(
            config,
            num_features=num_features,
            num_context=num_context,
            num_outputs=num_outputs,
        )
        self.token = nn.Parameter(torch.randn(config.width))

    @override
    def attend(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last states, each one place too far down."""
        nodes = torch.cat([self.token[None], nodes])
        nodes, edges = super().attend(nodes, F.pad(edges, (0, 0, 1, 0, 1, 0)))
        return nodes[:-1], edges[:-1, :-1]
