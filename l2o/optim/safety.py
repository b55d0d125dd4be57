"""The safety net around the pure step: what it skips, what it clips."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.graph import NeuralGraph
from l2o.nets.config import check_positive

from .rule import AbstractRule, Params
from .state import ParameterState, State
from .step import Hyper, apply_updates, complete_state, propose_updates, widened


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """When a step is not to be trusted.

    Gradients that are not finite skip the whole step, and so does an update that is
    not: parameters and state stay as they were. Both limits are far from what the
    shipped rules do in a normal run, whose largest updates are one nominal step.

    Example:
        >>> from l2o import NeuralGraphOpt
        >>> strict = SafetyConfig(max_update=3.0)
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = NeuralGraphOpt(layer.parameters(), safety=strict)
    """

    max_update: float = 10.0
    """Largest root mean square of a tensor's update at `lr = 1`, in nominal steps: in
    units of `rule.step_size`, the size of Adam's first step. What is larger is scaled
    down to one nominal step."""
    max_gradient: float = 1e15
    """Largest magnitude of a gradient's entry; a tensor with a larger one is scaled
    down to it. Squares of larger ones overflow float32."""

    def __post_init__(self) -> None:
        check_positive(
            "SafetyConfig", max_update=self.max_update, max_gradient=self.max_gradient
        )


class StepReport(NamedTuple):
    """What one guarded step saw, on the parameters' device."""

    is_sound: Tensor
    """Whether the step was taken: all gradients and all updates were finite."""
    grad_peaks: dict[str, Tensor]
    """Largest magnitude of each gradient."""
    update_sizes: dict[str, Tensor]
    """Root mean square of each update at `lr = 1` before clipping, in nominal steps."""


def guarded_step(
    rule: AbstractRule,
    graph: NeuralGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
    hyper: Mapping[str, Hyper] | None = None,
    safety: SafetyConfig | None = None,
) -> tuple[Params, State, StepReport]:
    """Take a `learned_step` with a net under it.

    Where nothing is wrong, the result is `learned_step`'s, bit for bit. Nothing is
    copied to the host, so an accelerator never waits. Pure.

    Args:
        rule: the learned network.
        graph: the neural graph of the parameters.
        params: name to value, for every parameter of the graph.
        grads: name to gradient, for at least one of them.
        state: as for `learned_step`.
        hyper: as for `learned_step`.
        safety: the limits; None means the defaults.

    Returns:
        The new parameters, the new state, and what was seen.

    Example:
        >>> import l2o
        >>> params = {"weight": torch.ones(2, 3)}
        >>> grads = {"weight": torch.full((2, 3), torch.nan)}
        >>> rule, graph = l2o.Rule(), l2o.neural_graph(params)
        >>> new, _, report = guarded_step(rule, graph, params, grads, {})
        >>> bool(report.is_sound), torch.equal(new["weight"], params["weight"])
        (False, True)
    """
    limits = SafetyConfig() if safety is None else safety
    start = complete_state(rule, params, state)
    wide = {name: widened(grad) for name, grad in grads.items()}
    peaks = {
        name: torch.linalg.vector_norm(grad, math.inf) for name, grad in wide.items()
    }
    tame = {
        name: grad * (limits.max_gradient / peaks[name]).clamp(max=1)
        for name, grad in wide.items()
    }
    updates, new_state = propose_updates(rule, graph, params, tame, start)
    sizes = {
        name: torch.linalg.vector_norm(update)
        / (math.sqrt(update.numel()) * rule.step_size)
        for name, update in updates.items()
    }
    is_sound = torch.stack(
        [seen.isfinite() for seen in (*peaks.values(), *sizes.values())]
    ).all()
    clipped = {
        name: update * torch.where(sizes[name] > limits.max_update, 1 / sizes[name], 1)
        for name, update in updates.items()
    }
    new_params = apply_updates(rule, params, clipped, hyper)
    for name in updates:
        new_params[name] = torch.where(is_sound, new_params[name], params[name])
    kept = {
        name: _choose(is_sound, new_state[name], start[name])
        if name in grads
        else start[name]
        for name in params
        if name in grads or name in state
    }
    return new_params, kept, StepReport(is_sound, peaks, sizes)


def _choose(
    condition: Tensor, first: ParameterState, second: ParameterState
) -> ParameterState:
    return {key: torch.where(condition, first[key], second[key]) for key in first}
