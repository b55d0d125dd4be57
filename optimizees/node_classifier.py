"""A graph network that classifies the nodes of one graph."""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override


class NodeClassifier(nn.Module):
    """Two rounds of mean aggregation over one graph, which the module holds.

    A batch is a set of nodes: the messages pass over the whole graph, and the logits of
    the nodes in the batch are returned. Needs the extra `pyg`.

    Args:
        features: what is known of each node.
        edges: source and target of each edge.
        num_classes: outputs per node.
        width: channels between the two rounds.

    Raises:
        ModuleNotFoundError: if torch-geometric is not installed.

    Reference:
        Hamilton, Ying and Leskovec, 2017, "Inductive Representation Learning on Large
        Graphs", https://arxiv.org/abs/1706.02216.
    """

    def __init__(
        self,
        features: Float[Tensor, "N inputs"],
        edges: Int[Tensor, "2 E"],
        num_classes: int = 10,
        width: int = 64,
    ) -> None:
        from torch_geometric.nn import SAGEConv  # extra [pyg]

        super().__init__()
        self.features: Tensor
        self.edges: Tensor
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("edges", edges, persistent=False)
        self.first = SAGEConv(features.shape[1], width)
        self.second = SAGEConv(width, num_classes)

    @override
    def forward(self, nodes: Int[Tensor, " B"]) -> Float[Tensor, "B classes"]:
        """Return one logit per class for each of some nodes."""
        hidden = functional.relu(self.first(self.features, self.edges))
        return self.second(hidden, self.edges)[nodes]
