"""The rule: features, learned network and update head behind one call."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor, nn

from l2o.graph import NeuralGraph
from l2o.nets import build_net

from .config import (
    LogSignFeaturesConfig,
    NominalHeadConfig,
    PaperHeadConfig,
    RuleConfig,
)
from .directions import Directions, find_directions
from .features import build_features
from .head import apply_head, num_outputs
from .state import State, advance_state, init_state
from .whitening import whiten_momenta

Params: TypeAlias = dict[str, Tensor]


class AbstractRule(nn.Module, ABC):
    """What `NeuralGraphOpt` and the meta-training need of a learned network.

    Write your own by implementing the four methods; all are pure.
    """

    step_size: float
    """Typical size of an update at `lr = 1`; scales decoupled weight decay."""

    @abstractmethod
    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the rule cannot read this graph."""

    @abstractmethod
    def init_state(self, params: Mapping[str, Tensor]) -> State:
        """Return the state before the first step, one record a parameter."""

    @abstractmethod
    def advance(self, state: State, grads: Mapping[str, Tensor]) -> State:
        """Return the state after one more gradient of every parameter in `grads`."""

    @abstractmethod
    def forward(
        self,
        graph: NeuralGraph,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter at `lr = 1`.

        Args:
            graph: the graph of the network being trained.
            params: name to value, for every parameter of the graph.
            grads: name to gradient, for every parameter of the graph.
            state: name to state, the gradients in `grads` included.
        """


class Rule(AbstractRule):
    """A rule put together from a `RuleConfig`.

    An untrained rule with the nominal head is Adam: its last layer is zero. The paper's
    head keeps the default initialisation.

    Args:
        config: features, network, head. None means the default NG-GNN.

    Example:
        >>> import l2o
        >>> sum(p.numel() for p in Rule(l2o.PRESETS["paper-ff"]).parameters())
        5250
    """

    def __init__(self, config: RuleConfig | None = None) -> None:
        super().__init__()
        self.config = RuleConfig() if config is None else config
        self.step_size = self.config.head.step_size
        self.uses_directions = not (
            isinstance(self.config.features, LogSignFeaturesConfig)
            and isinstance(self.config.head, PaperHeadConfig)
        )
        self.features = build_features(self.config.features)
        self.net = build_net(
            self.config.net,
            num_features=self.features.num_features,
            num_context=self.features.num_context,
            num_outputs=num_outputs(self.config.head),
        )
        if isinstance(self.config.head, NominalHeadConfig):
            self.net.zero_last()

    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the network cannot read this graph."""
        self.net.check(graph)

    def init_state(self, params: Mapping[str, Tensor]) -> State:
        """Return zero momenta, in each parameter's shape, dtype and device."""
        return init_state(params)

    def advance(self, state: State, grads: Mapping[str, Tensor]) -> State:
        """Return the momenta after one more gradient; others stay as they are."""
        return advance_state(state, grads)

    def forward(
        self,
        graph: NeuralGraph,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter at `lr = 1`, in its own dtype."""
        theta = next(self.parameters())
        features, contexts = {}, {}
        directions: dict[str, Directions | None] = dict.fromkeys(params)
        white = whiten_momenta(graph, grads, state) if self.uses_directions else {}
        for name, param in params.items():
            if self.uses_directions:
                directions[name] = find_directions(
                    grads[name], state[name], white.get(name)
                )
            entry, context = self.features(
                param, grads[name], state[name], directions[name]
            )
            features[name] = entry.to(theta.dtype)
            contexts[name] = context.to(theta.dtype)
        outputs = self.net(graph, features, contexts)
        return {
            name: apply_head(
                self.config.head, outputs[name].to(param.dtype), directions[name]
            )
            for name, param in params.items()
        }

    def num_weights(self) -> int:
        """Number of entries of theta."""
        return sum(weight.numel() for weight in self.parameters())
