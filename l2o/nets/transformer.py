"""NG-T: a relational transformer whose attention reads and writes edges."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .config import check_positive


@dataclass(frozen=True, kw_only=True)
class RelationalConfig:
    """One layer of the relational transformer."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    node_width: int = 64
    """Channels of a node state."""
    edge_width: int = 32
    """Channels of an edge state."""
    attention_width: int = 128
    """Channels of queries, keys and values, over all heads."""
    node_hidden: int = 128
    """Hidden channels of the nodes' network."""
    edge_hidden: int = 64
    """Hidden channels of the edges' two networks."""
    heads: int = 8
    """Attention heads; must divide `attention_width`."""
    dropout: float = 0.0
    """Share of channels that are dropped before each residual sum."""
    scale: Literal["width", "head"] = "width"
    """What attention scores are divided by: the root of the whole attention width (the
    paper) or of one head's (the usual)."""
    out_projection: bool = True
    """Whether heads are mixed by a layer of their own; if not, `node_width` is
    `attention_width`."""
    edge_means: bool = False
    """Whether an edge also sees the mean over the edges that leave its source and over
    those that enter its target (learning to optimize)."""

    def __post_init__(self) -> None:
        check_positive(
            "RelationalConfig",
            node_width=self.node_width,
            edge_width=self.edge_width,
            attention_width=self.attention_width,
            node_hidden=self.node_hidden,
            edge_hidden=self.edge_hidden,
            heads=self.heads,
        )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                "RelationalConfig dropout must lie in [0, 1); got dropout="
                f"{self.dropout}. Choose a share below 1, or 0 for none."
            )
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
