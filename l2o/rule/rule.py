"""What a rule is: a learned network behind one call.

`AbstractRule` is the interface. `init_state` makes the state, `advance` takes one more
gradient into it, and `forward` turns graph, parameters, gradients and state into what
is added to each parameter. All three are pure.

`Rule` is put together from the parts of a `RuleConfig` (averages, directions, features,
network, head) and computes entry by entry. `NeuronRule` in `neuron_rule.py` computes
neuron by neuron.
"""

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from l2o.config import config_values
from l2o.graph import NeuralGraph
from l2o.graph.tiles import find_tiles
from l2o.nets import NetSizes, build_net

from .config import RuleConfig
from .directions import DirectionSet
from .state import Averages, Reading, State, Tensors
from .tile_io import TileIO

Params: TypeAlias = dict[str, Tensor]

DEFAULT_MEMORY = 2**29
"""Bytes for edge states, or as many as the parameters take if these are more."""

TILE_ENTRIES = 2**17
"""Entries that are computed at a time without autograd, so that they fit in a cache."""

_BYTES_PER_ENTRY = 2**9
"""Rough memory of a tile in a compiled step."""


class AbstractRule(nn.Module, ABC):
    """What `NeuralGraphOpt` and meta-training need of a learned network.

    Write your own by implementing `check` and `forward`; all methods are pure. Its
    state is `averages`, unless it overrides `init_state` and `advance`.

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
    averages: Averages = Averages()
    """What the rule remembers. The optimizer advances averages in place and can keep
    them in bfloat16."""
    directions: DirectionSet = DirectionSet()
    """Hand-designed directions over these averages, which its teacher follows."""
    horizon: int | None = None
    """Number of steps of the whole run, if it is known; `with_horizon` sets it."""
    reads_horizon: bool = False
    """Whether `forward` itself lets the updates fall towards the horizon. Otherwise the
    step multiplies them by `l2o.schedules.share_left`."""
    is_averaged: bool = False
    """Whether the run is for the averaged weights; `with_aim` sets it."""
    reads_aim: bool = False
    """Whether `forward` takes larger late steps where averaged weights count."""

    @abstractmethod
    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the rule cannot read this graph."""

    def prepare(self, graph: NeuralGraph) -> None:
        """Derive from a graph what `forward` needs; it is kept in `graph.cache`.

        Call it before a step is compiled, transformed or captured, so that the graph is
        not read within. A plain step does not need it.
        """

    @abstractmethod
    def forward(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter at `lr = 1`.

        Args:
            graph: the graph of the network being trained.
            params: name to value, for every parameter of the graph.
            grads: name to gradient, for every parameter of the graph.
            state: name to state, the gradients in `grads` included.
        """

    def init_state(self, params: Tensors) -> State:
        """Return the state before the first step, one record per parameter."""
        return self.averages.init_state(params)

    def advance(self, state: State, grads: Tensors) -> State:
        """Return the state after one more gradient of every parameter in `grads`."""
        return self.averages.advance(state, grads)

    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return what updates are multiples of, for every parameter of a graph."""
        return dict.fromkeys(graph.shapes, 1.0)

    def settings(self) -> dict[str, Any]:
        """Return the settings that distinguish rules of this class, as JSON values."""
        return {}


def plain_averages(rule: AbstractRule) -> Averages | None:
    """Return the averages that are a rule's whole state; None if it has another."""
    kind = type(rule)
    is_plain = (
        kind.init_state is AbstractRule.init_state
        and kind.advance is AbstractRule.advance
    )
    return rule.averages if is_plain else None


class Rule(AbstractRule):
    """A rule put together from a `RuleConfig`.

    An untrained rule with the nominal head is its base, since its last layer is zero.
    The paper's head keeps the default initialisation.

    Args:
        config: averages, directions, features, network, head. None means the default
            NG-GNN.

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
        self.averages = self.config.averages
        self.step_size = self.config.head.step_size
        self.directions = self.config.direction_set()
        self.features = self.config.features.build(self.directions)
        self.head = self.config.head.build(self.directions)
        self.net_sizes = NetSizes(
            num_features=self.features.num_features,
            num_context=self.features.num_context,
            num_outputs=self.head.num_outputs,
        )
        self.net = build_net(self.config.net, self.net_sizes)
        if self.head.starts_at_zero:
            self.net.zero_last()

    def check(self, graph: NeuralGraph) -> None:
        """Raise ValueError if the network cannot read this graph."""
        self.net.check(graph)

    def prepare(self, graph: NeuralGraph) -> None:
        """Cut the graph into tiles."""
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
        return max(TILE_ENTRIES, self._room(graph) // _BYTES_PER_ENTRY)

    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return what updates are multiples of, as the head says."""
        return self.head.units(graph)

    def settings(self) -> dict[str, Any]:
        """Return the configuration."""
        return config_values(self.config)

    def forward(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter at `lr = 1`, in its own dtype."""
        tile_io = self._tile_io(Reading(graph, params, grads, state))
        self.net(graph, tile_io, tile_io.context)
        return tile_io.updates()

    def _tile_io(self, reading: Reading) -> TileIO:
        """Lay what a step reads on tiles."""
        is_compiling = torch.compiler.is_compiling()
        cut = self._compiled_cut(reading.graph) if is_compiling else TILE_ENTRIES
        is_whole = torch.is_grad_enabled()
        return TileIO(
            reading,
            directions=self.directions,
            head=self.head,
            features=self.features,
            dtype=next(self.parameters()).dtype,
            cut=None if is_whole else cut,
            memory_limit=None if is_whole else self._room(reading.graph),
        )

    def num_weights(self) -> int:
        """Number of entries of theta."""
        return sum(weight.numel() for weight in self.parameters())
