"""The hand-designed optimizer that a rule may imitate before it finds its own way."""

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from l2o import AbstractRule, NeuralGraph
from l2o.optim.directions import ADAM, WHITENED, find_directions
from l2o.optim.state import State, advance_state, init_state

from .estimator_config import ImitationConfig


class Teacher(AbstractRule):
    """Whitened momentum for matrices and kernels, Adam for vectors, with a schedule.

    Rates rise linearly over the warm-up and then fall as `1 / (1 + (t / tau)^p)`.
    Nothing in it is learned, but it is a rule, so `NeuralGraphOpt` runs it.

    Args:
        config: rates and schedule.
        step_size: what the rates are multiples of.

    Reference:
        Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/. The scale of the
        matrices' updates and the decay are ours.
    """

    def __init__(
        self, config: ImitationConfig | None = None, *, step_size: float = 0.01
    ) -> None:
        super().__init__()
        self.config = ImitationConfig() if config is None else config
        self.step_size = step_size

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
        return {
            name: self._update(param, grads[name], state[name])
            for name, param in params.items()
        }

    def _update(self, param: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        config = self.config
        step = state["step"].to(param.dtype)
        warm = torch.clamp(step / config.warmup, max=1.0)
        decay = 1 + (step / config.decay_steps) ** config.decay_power
        rate = self.step_size * warm / decay
        directions = find_directions(grad, state).steps
        if param.ndim < 2:
            return -rate * config.vector_rate * directions[ADAM]
        return -rate * config.matrix_rate * directions[WHITENED]
