"""NG-T: a relational transformer whose attention reads edges and whose edges follow."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.config import BelowOne, Positive, frozen_config


@frozen_config
class RelationalConfig:
    """One layer of the relational transformer."""

    node_width: Positive[int] = 64
    """Channels of a node state."""
    edge_width: Positive[int] = 32
    """Channels of an edge state."""
    attention_width: Positive[int] = 128
    """Channels of queries, keys and values, over all heads."""
    node_hidden: Positive[int] = 128
    """Hidden channels of the nodes' network."""
    edge_hidden: Positive[int] = 64
    """Hidden channels of the edges' two networks."""
    update_hidden: Positive[int] | None = None
    """Hidden channels of the first of them, which reads the ends; None for
    `edge_hidden`."""
    heads: Positive[int] = 8
    """Attention heads; must divide `attention_width`."""
    dropout: BelowOne[float] = 0.0
    """Share of channels that are dropped before each residual sum."""
    scale: Literal["width", "head"] = "width"
    """Attention scores are divided by the root of the whole attention width (the
    paper's code) or of one head's (the usual)."""
    out_projection: bool = True
    """Whether a linear map mixes the heads; without one `attention_width` equals
    `node_width`."""
    edge_means: bool = False
    """Whether an edge also sees the mean over the edges that leave its source and over
    those that enter its target (learning to optimize)."""

    def __post_init__(self) -> None:
        if self.attention_width % self.heads:
            raise ValueError(
                "RelationalConfig heads must divide attention_width; got "
                f"{self.heads} and {self.attention_width}. Choose a divisor."
            )
        if not self.out_projection and self.attention_width != self.node_width:
            raise ValueError(
                "RelationalConfig without out_projection needs attention_width equal "
                f"to node_width; got {self.attention_width} and {self.node_width}. Set "
                "them alike."
            )


class RelationalAttention(nn.Module):
    r"""Attention between all nodes, with queries, keys and values that read edges.

    .. math::
        q_{ij} = W_q v_i + U_q e_{ij}, \quad k_{ij} = W_k v_j + U_k e_{ij}, \quad
        u_{ij} = (U_m e_{ij}) \odot (W_v v_j) + U_v e_{ij}

    What is linear in an edge is not mapped edge by edge: of the scores, the nodes'
    queries and keys are mapped back to what they ask of an edge, and for the last
    summand of the values edges are averaged first and mapped afterwards.

    Args:
        config: the layer's configuration.

    Reference:
        Kofinas et al., 2024, Eq. 5; Diao and Loynd, 2023, "Relational Attention:
        Generalizing Transformers for Graph-Structured Tasks",
        https://arxiv.org/abs/2210.05062.
    """

    def __init__(self, config: RelationalConfig) -> None:
        super().__init__()
        width = config.attention_width
        self.heads = config.heads
        narrow = width if config.scale == "width" else width // config.heads
        self.scale = narrow**-0.5
        self.of_nodes = nn.Linear(config.node_width, 3 * width, bias=False)
        self.of_edges = nn.Linear(config.edge_width, 4 * width, bias=False)
        for layer in (self.of_nodes, self.of_edges):
            for one in layer.weight.split(width):
                nn.init.xavier_uniform_(one)
        self.out = (
            _linear(width, config.node_width)
            if config.out_projection
            else nn.Identity()
        )

    def forward(self, nodes: Tensor, edges: Tensor, is_real: Tensor | None) -> Tensor:
        """Return `[graph, node, node_width]` from what `RelationalLayer` takes."""
        query, key, value = map(self._by_head, self.of_nodes(nodes).chunk(3, dim=-1))
        to_query, to_key, to_factor, to_value = self.of_edges.weight.chunk(4)
        scores = self._by_head(F.linear(edges, to_query) * F.linear(edges, to_key))
        scores = scores.sum(-1) + torch.einsum("bihd,bjhd->bijh", query, key)
        asked = torch.einsum("bihd,hdc->bihc", query, self._of_head(to_key))
        scores = scores + edges @ asked.transpose(2, 3)
        asked = torch.einsum("bjhd,hdc->bjch", key, self._of_head(to_query))
        scores = scores + (edges.transpose(1, 2) @ asked).transpose(1, 2)
        if is_real is not None:
            scores = scores.masked_fill(~is_real[:, None, :, None], -torch.inf)
        share = torch.softmax(self.scale * scores, dim=2)
        shared = (share.unsqueeze(-1) * value[:, None]).flatten(3)
        sums = edges.transpose(2, 3) @ shared
        found = self._by_head((sums * to_factor.T).sum(2))
        averages = share.transpose(2, 3) @ edges
        found = found + torch.einsum(
            "bihc,hdc->bihd", averages, self._of_head(to_value)
        )
        return self.out(found.flatten(2))

    def _by_head(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1))

    def _of_head(self, maps: Tensor) -> Tensor:
        return maps.unflatten(0, (self.heads, -1))


class RelationalLayer(nn.Module):
    """One layer: attention, then the nodes' network, then the edges' two networks.

    Norms follow each residual sum and are per node and per edge.

    Args:
        config: widths and variants.
        has_edge_update: whether the edges are updated; a last layer whose edges nothing
            reads has no weights for it.

    Reference:
        Diao and Loynd, 2023; Kofinas et al., 2024, section 3. No token besides the
        nodes is added, and padded nodes take no part.
    """

    def __init__(
        self, config: RelationalConfig, *, has_edge_update: bool = True
    ) -> None:
        super().__init__()
        node, edge = config.node_width, config.edge_width
        self.attention = RelationalAttention(config)
        self.after_attention = _linear(node, node)
        self.attention_norm = nn.LayerNorm(node)
        self.node_network = _network(node, config.node_hidden)
        self.node_norm = nn.LayerNorm(node)
        self.dropout = nn.Dropout(config.dropout)
        self.has_edge_update = has_edge_update
        if has_edge_update:
            self.edge_update = EdgeUpdate(config)
            self.update_norm = nn.LayerNorm(edge)
            self.edge_network = _network(edge, config.edge_hidden)
            self.edge_norm = nn.LayerNorm(edge)

    def forward(
        self, nodes: Tensor, edges: Tensor, is_real: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the next states.

        Args:
            nodes: `[graph, node, node_width]`.
            edges: `[graph, i, j, edge_width]`, the edge from node i to node j. Node i
                attends to all j through these, its outgoing edges.
            is_real: `[graph, node]`, false for padding; None if there is none. Padding
                may hold any finite numbers, before and after.
        """
        update = self.after_attention(self.attention(nodes, edges, is_real))
        nodes = self.attention_norm(nodes + self.dropout(update))
        nodes = self.node_norm(nodes + self.dropout(self.node_network(nodes)))
        if not self.has_edge_update:
            return nodes, edges
        update = self.edge_update(nodes, edges, is_real)
        edges = self.update_norm(edges + self.dropout(update))
        return nodes, self.edge_norm(edges + self.dropout(self.edge_network(edges)))


class EdgeUpdate(nn.Module):
    """What an edge learns from its ends and from the edge the other way."""

    def __init__(self, config: RelationalConfig) -> None:
        super().__init__()
        node, edge = config.node_width, config.edge_width
        hidden = config.update_hidden or config.edge_hidden
        self.both_ways = _linear(2 * edge, hidden)
        self.from_source = _linear(node, hidden)
        self.from_target = _linear(node, hidden)
        self.means = (
            nn.ModuleList(_linear(edge, hidden, bias=False) for _ in range(2))
            if config.edge_means
            else None
        )
        self.out = _linear(hidden, edge)

    def forward(self, nodes: Tensor, edges: Tensor, is_real: Tensor | None) -> Tensor:
        """Return what is added to edges, from what `RelationalLayer` takes."""
        own, other = self.both_ways.weight.chunk(2, dim=1)
        source, target = self.from_source(nodes), self.from_target(nodes)
        if self.means is not None:
            source = source + self.means[0](_mean(edges, is_real))
            target = target + self.means[1](_mean(edges.transpose(1, 2), is_real))
        hidden = F.linear(edges, own, self.both_ways.bias)
        hidden = hidden + F.linear(edges, other).transpose(1, 2)
        hidden = hidden + source[:, :, None] + target[:, None]
        return self.out(F.gelu(hidden))


def _mean(edges: Tensor, is_real: Tensor | None) -> Tensor:
    """Return the mean over the second node of `[graph, i, j, channel]`."""
    if is_real is None:
        return edges.mean(2)
    weight = is_real.to(edges.dtype)
    weight = weight / weight.sum(1, keepdim=True)
    return torch.einsum("bijc,bj->bic", edges, weight)


def _network(width: int, hidden: int) -> nn.Sequential:
    """Return a network of one hidden layer."""
    return nn.Sequential(
        _linear(width, hidden, bias=False), nn.GELU(), _linear(hidden, width)
    )


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear map with Glorot's weights and no offset."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
