"""The rule: features, learned network and update head behind one call."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from l2o.graph import NeuralGraph
from l2o.graph.tiles import find_tiles
from l2o.nets import build_net

from .config import (
    LogSignFeaturesConfig,
    NominalHeadConfig,
    PaperHeadConfig,
    RuleConfig,
)
from .features import build_features
from .head import num_outputs
from .state import State, advance_state, init_state
from .tile_io import RuleEntries

Params: TypeAlias = dict[str, Tensor]

DEFAULT_MEMORY = 2**29
"""Bytes for edge states, or as many as the parameters take if these are more."""

TILE_ENTRIES = 2**17
"""Entries that are computed at a time without autograd, so that they fit in a cache."""

_BYTES_AN_ENTRY = 2**9
"""What a tile of a compiled step needs, roughly."""


class AbstractRule(nn.Module, ABC):
    """What `NeuralGraphOpt` and the meta-training need of a learned network.

    Write your own by implementing the four methods; all are pure.

    Example:
        >>> import torch, l2o
        >>> class SignDescent(AbstractRule):
        ...     step_size = 0.01
        ...     def check(self, graph):
        ...         pass
        ...     def init_state(self, params):
        ...         return {name: {} for name in params}
        ...     def advance(self, state, grads):
        ...         return state
        ...     def forward(self, graph, params, grads, state):
        ...         return {name: -0.01 * grads[name].sign() for name in params}
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = l2o.NeuralGraphOpt(layer.parameters(), rule=SignDescent())
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

    memory_limit: int | None = None
    """Bytes that edge states may take in a step without autograd; states beyond are
    computed again when they are needed, which saves memory and costs time. None allows
    512 MiB, or as much as the parameters take in float32 if that is more. Set it at
    any time; it changes no result beyond rounding and is not saved."""

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
        # Tiles are found before a step is compiled, not as a part of it.
        device = next(self.parameters()).device
        for cut in (None, TILE_ENTRIES, self._compiled_cut(graph)):
            find_tiles(graph, device, cut)

    def _room(self, graph: NeuralGraph) -> int:
        """Return how many bytes edge states may take."""
        if self.memory_limit is not None:
            return self.memory_limit
        return max(DEFAULT_MEMORY, 4 * graph.num_parameters)

    def _compiled_cut(self, graph: NeuralGraph) -> int:
        """Return the size of a compiled step's tiles; each makes the program longer."""
        return max(TILE_ENTRIES, self._room(graph) // _BYTES_AN_ENTRY)

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
        return self._run(graph, params, grads, state, keeps_outputs=False).updates()

    def propose(
        self,
        graph: NeuralGraph,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
    ) -> tuple[Params, dict[str, Tensor]]:
        """Return updates as `forward` does, and the network's numbers behind them.

        Returns:
            Name to `[*shape]`, and name to `[output, *shape]` in bfloat16.
        """
        entries = self._run(graph, params, grads, state, keeps_outputs=True)
        return entries.updates(), entries.outputs()

    def _run(
        self,
        graph: NeuralGraph,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
        *,
        keeps_outputs: bool,
    ) -> RuleEntries:
        """Let the network read and write every entry."""
        is_compiling = torch.compiler.is_compiling()
        cut = self._compiled_cut(graph) if is_compiling else TILE_ENTRIES
        is_whole = torch.is_grad_enabled()
        entries = RuleEntries(
            graph,
            params,
            grads,
            state,
            features=self.features,
            head=self.config.head,
            uses_directions=self.uses_directions,
            dtype=next(self.parameters()).dtype,
            cut=None if is_whole else cut,
            memory_limit=None if is_whole else self._room(graph),
            whitening_rows=self.config.whitening_rows,
            keeps_outputs=keeps_outputs,
        )
        self.net(graph, entries, entries.context)
        return entries

    def num_weights(self) -> int:
        """Number of entries of theta."""
        return sum(weight.numel() for weight in self.parameters())
