"""What a backbone leaves behind: states of neurons and of edges."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class EdgeStates:
    """Edge states that are not written out, only what they are a linear map of.

    Whatever reads them next begins with linear maps of its own, which are multiplied
    with the one that is due. So an edge meets one product of matrices instead of two.
    """

    inner: list[Tensor]
    """For each fan `[part, receiver, sender, channel]`."""
    due: nn.Linear | None = None
    """The map that is left to do, if any."""

    def through(self, *layers: nn.Linear) -> list[list[Tensor]]:
        """Return each fan's states after each of some linear maps."""
        maps = [(layer.weight, layer.bias) for layer in layers]
        if self.due is not None:
            maps = [
                (weight @ self.due.weight, F.linear(self.due.bias, weight, bias))
                for weight, bias in maps
            ]
        return [[F.linear(inner, *one) for one in maps] for inner in self.inner]


@dataclass(frozen=True, slots=True)
class States:
    """The last states of all networks of a batch."""

    nodes: Tensor
    """`[neuron, node width]`."""
    edges: EdgeStates
    """Of the fans along the weights."""
