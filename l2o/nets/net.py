"""What a rule needs of a learned network, and what a network needs to be built."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from l2o.config import HasKind
from l2o.graph import NeuralGraph

from .entries import Entries


@dataclass(frozen=True, kw_only=True, slots=True)
class NetSizes:
    """What a network reads and returns, as its rule decides it.

    Example:
        >>> NetSizes(num_features=4, num_outputs=2).num_context
        0
    """

    num_features: int
    """Channels per entry of a parameter."""
    num_context: int = 0
    """Channels per parameter tensor; 0 for none."""
    num_outputs: int
    """Numbers to return per entry."""

    def from_context(self, width: int) -> nn.Linear | None:
        """Return a linear map of the context without a bias; None without context."""
        if not self.num_context:
            return None
        return nn.Linear(self.num_context, width, bias=False)


@runtime_checkable
class Net(Protocol):
    """A learned network over the entries of all parameters of a neural graph.

    Any `nn.Module` with these methods is one; it need not inherit from this class. A
    rule calls the network like a function, so a module implements `forward`.

    Example:
        >>> import torch, l2o
        >>> class LinearNet(torch.nn.Module):
        ...     def __init__(self, num_features, num_outputs):
        ...         super().__init__()
        ...         self.last = torch.nn.Linear(num_features, num_outputs)
        ...     def check(self, graph):
        ...         pass
        ...     def forward(self, graph, entries, context):
        ...         for tile in entries.tiles.owned:
        ...             entries.write(tile, self.last(entries.read(tile)))
        ...     def zero_last(self):
        ...         torch.nn.init.zeros_(self.last.weight)
        ...         torch.nn.init.zeros_(self.last.bias)
        >>> isinstance(LinearNet(3, 2), Net)
        True
    """

    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the network cannot read this graph."""
        ...

    def __call__(self, graph: NeuralGraph, entries: Entries, context: Tensor) -> None:
        """Read the features of every entry and write its outputs.

        Args:
            graph: the graph of the network that is being trained.
            entries: where features come from and outputs go; every tile of
                `entries.tiles.owned` must be written once.
            context: `[tensor, num_context]`, in the order of `graph.shapes`.
        """
        ...

    def zero_last(self) -> None:
        """Make every output zero, whatever the input."""
        ...


@runtime_checkable
class BuildsNet(HasKind, Protocol):
    """A configuration that builds its own network.

    `build_net` and `RuleConfig(net=...)` take one in the place of the library's own
    configurations. Make it a frozen dataclass, so that rules with it compare equal.

    Example:
        >>> from dataclasses import dataclass
        >>> from l2o.nets import FeedForwardConfig, build_net
        >>> @dataclass(frozen=True)
        ... class WiderConfig:
        ...     kind: str = "wider"
        ...     factor: int = 2
        ...     def build(self, sizes):
        ...         return build_net(FeedForwardConfig(width=32 * self.factor), sizes)
        >>> isinstance(WiderConfig(), BuildsNet)
        True
    """

    def build(self, sizes: NetSizes) -> Net:
        """Build the network."""
        ...
