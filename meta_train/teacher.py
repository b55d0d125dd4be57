"""The hand-designed optimizer that a rule may imitate before it finds its own way."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from l2o import AbstractRule, NeuralGraph
from l2o.graph.linear_maps import fan_ins
from l2o.nets.entries import at_owners
from l2o.rule.directions import Directions, DirectionSet, WhitenedConfig
from l2o.rule.head import NominalHeadConfig
from l2o.rule.neuron_rule import NeuronRule
from l2o.rule.rule import TILE_ENTRIES
from l2o.rule.state import Averages, Reading, State, Tensors
from l2o.rule.step import Compute
from l2o.rule.tile_io import TileIO
from l2o.schedules import share_left

from .estimator_config import ImitationConfig


class Teacher(AbstractRule):
    """Whitened momentum for linear maps, Adam for all else, with a schedule.

    Rates rise linearly over the warm-up and then fall as `1 / (1 + (t / tau)^p)`, or
    linearly to zero where the horizon is known.
    Nothing in it is learned, but it is a rule, so `NeuralGraphOpt` runs it.

    Args:
        config: rates and schedule.
        step_size: what the rates are multiples of.
        units: what updates are multiples of, for every parameter of a graph; None for
            the nominal head's.
        directions: where the whitened momentum comes from; None for the default.
        base: computes the directions in place of these, without size, unit or sign.
        averages: what `base` reads, which is the teacher's state then.

    Reference:
        Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/. The scale of the
        matrices' updates and the decay are ours.
    """

    reads_horizon = True

    def __init__(
        self,
        config: ImitationConfig | None = None,
        *,
        step_size: float = 0.01,
        units: Callable[[NeuralGraph], dict[str, float]] | None = None,
        directions: DirectionSet | None = None,
        base: Compute | None = None,
        averages: Averages | None = None,
    ) -> None:
        super().__init__()
        self.config = ImitationConfig() if config is None else config
        self.step_size = step_size
        self.directions = DirectionSet((WhitenedConfig(),))
        if directions is not None:
            self.directions = directions.only("whitened")
        self.base = base
        self.averages = self.directions.averages if averages is None else averages
        units = NominalHeadConfig().units if units is None else units
        self.head = _ScheduledHead(units, self.directions)

    @classmethod
    def of(cls, rule: AbstractRule, config: ImitationConfig) -> Self:
        """Return the teacher of a rule: with its step size, units and directions."""
        teacher = cls(
            config,
            step_size=rule.step_size,
            units=rule.units,
            directions=rule.directions,
            base=rule.base if isinstance(rule, NeuronRule) else None,
            averages=rule.averages,
        )
        teacher.horizon = rule.horizon
        return teacher

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Accept every graph."""

    @override
    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return what updates are multiples of, for every parameter of a graph."""
        return self.head.units(graph)

    @override
    def forward(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter at `lr = 1`."""
        if self.base is not None:
            directions = self.base(graph, params, grads, state)
            units, factors = self.units(graph), self._factors(graph)
            return {
                name: self._rate(state[name]["step"].to(item.dtype))
                * (-units[name] * factors[name])
                * item
                for name, item in directions.items()
            }
        some = next(iter(params.values()))
        is_whole = torch.is_grad_enabled() or torch.compiler.is_compiling()
        tile_io = TileIO(
            Reading(graph, params, grads, state),
            directions=self.directions,
            head=self.head,
            features=None,
            dtype=some.dtype,
            cut=None if is_whole else TILE_ENTRIES,
            memory_limit=None if torch.is_grad_enabled() else 0,
        )
        factors = self._factors(graph)
        rows = []
        for name in graph.shapes:
            rate = self._rate(state[name]["step"].to(some.dtype))
            rows.append(torch.stack([rate, torch.full_like(rate, factors[name])]))
        table = torch.stack(rows)
        for tile in tile_io.tiles.owned:
            tile_io.write(tile, at_owners(table, tile))
        return tile_io.updates()

    def _factors(self, graph: NeuralGraph) -> dict[str, float]:
        """Return the peak rate of each parameter, in its units."""
        config = self.config
        kernel = config.kernel_rate
        maps = fan_ins(graph)
        found = {
            name: config.matrix_rate if name in maps else config.vector_rate
            for name in graph.shapes
        }
        if kernel is None:
            return found
        for block in graph.blocks:
            call = block.operation
            is_conv = call is not None and call.name.startswith("conv")
            if is_conv and block.parameter in maps and not block.is_alias:
                found[block.parameter] = kernel
        return found

    def _rate(self, step: Tensor) -> Tensor:
        """Return the schedule at a step, times the step size."""
        config = self.config
        warm = torch.clamp(step / config.warmup, max=1.0)
        if self.horizon is not None:
            return self.step_size * warm * share_left(step, self.horizon)
        decay = 1 + (step / config.decay_steps) ** config.decay_power
        return self.step_size * warm / decay


class _ScheduledHead:
    """The whitened momentum times a rate: outputs are the schedule and a factor."""

    num_outputs = 2
    uses_directions = True
    starts_at_zero = False

    def __init__(
        self, units: Callable[[NeuralGraph], dict[str, float]], directions: DirectionSet
    ) -> None:
        self._units = units
        self.row = directions.row("whitened")

    def units(self, graph: NeuralGraph) -> dict[str, float]:
        return self._units(graph)

    def __call__(
        self, outputs: Tensor, directions: Directions | None, unit: Tensor | float
    ) -> Tensor:
        assert directions is not None
        rate, factor = outputs.unbind(-1)
        return -(rate * unit * factor) * directions.steps[self.row]
