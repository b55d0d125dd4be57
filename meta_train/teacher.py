"""The hand-designed optimizer that a rule may imitate before it finds its own way."""

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from l2o import AbstractRule, NeuralGraph, Rule
from l2o.rule.config import HeadConfig, NominalHeadConfig
from l2o.rule.directions import ADAM, find_directions
from l2o.rule.head import update_units
from l2o.rule.state import State, advance_state, init_state
from l2o.rule.whitening import whiten_momenta

from .estimator_config import ImitationConfig


class Teacher(AbstractRule):
    """Whitened momentum for linear maps, Adam for all else, with a schedule.

    Rates rise linearly over the warm-up and then fall as `1 / (1 + (t / tau)^p)`.
    Nothing in it is learned, but it is a rule, so `NeuralGraphOpt` runs it.

    Args:
        config: rates and schedule.
        head: of the rule that imitates it: its step size and its units are what the
            rates are multiples of.

    Reference:
        Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/. The scale of the
        matrices' updates and the decay are ours.
    """

    def __init__(
        self,
        config: ImitationConfig | None = None,
        *,
        head: HeadConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = ImitationConfig() if config is None else config
        self.head = NominalHeadConfig() if head is None else head
        self.step_size = self.head.step_size

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Accept every graph."""

    @override
    def init_state(self, params: Mapping[str, Tensor]) -> State:
        """Return zero momenta."""
        return init_state(params)

    @override
    def advance(self, state: State, grads: Mapping[str, Tensor]) -> State:
        """Return the momenta after one more gradient; others stay as they are."""
        return advance_state(state, grads)

    @override
    def forward(
        self,
        graph: NeuralGraph,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: State,
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter at `lr = 1`."""
        white = whiten_momenta(graph, grads, state)
        units = update_units(self.head, graph)
        found = {}
        for name, param in params.items():
            rate = self._rate(state[name]["step"].to(param.dtype))
            if name in white:
                rate = rate * units[name] * self.config.matrix_rate
                found[name] = -rate * white[name]
            else:
                rate = rate * self.config.vector_rate
                steps, _ = find_directions(grads[name], state[name], is_map=False)
                found[name] = -rate * steps[ADAM]
        return found

    def _rate(self, step: Tensor) -> Tensor:
        """Return the schedule at a step, times the head's step size."""
        config = self.config
        warm = torch.clamp(step / config.warmup, max=1.0)
        decay = 1 + (step / config.decay_steps) ** config.decay_power
        return self.step_size * warm / decay


def head_of(rule: AbstractRule) -> HeadConfig:
    """Return the head of a rule; of one without, the nominal one of its step size."""
    if isinstance(rule, Rule):
        return rule.config.head
    return NominalHeadConfig(step_size=rule.step_size)
