"""The safety net around the pure step: what it skips, what it clips."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.config import check_positive
from l2o.graph import NeuralGraph

from .rule import AbstractRule, Params
from .state import ParameterState, State
from .step import Hyper, apply_updates, complete_state, propose_updates, widened


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """When a step is not to be trusted.

    Gradients that are not finite skip the whole step: parameters and state stay as they
    were. So do all parameters where an update is not finite, though the gradient was;
    the state has seen it. Both limits are far from what the shipped rules do in a
    normal run, whose largest updates are one nominal step.

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
    """Root mean square of each update at `lr = 1` before clipping, in nominal steps; 0
    where a gradient is not finite, since nothing was asked of the rule then."""


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
    wide = {name: widened(grads[name]) for name in params if name in grads}
    peaks = peaks_of(wide)
    are_finite = all_finite(peaks)
    tame = {
        name: tamed(grad, peaks[name], are_finite, limits)
        for name, grad in wide.items()
    }
    new_state = {
        name: chosen(are_finite, item, start[name]) if name in tame else start[name]
        for name, item in rule.advance(start, tame).items()
    }
    updates = propose_updates(rule, graph, params, tame, new_state)
    sizes = sizes_of(rule, updates, are_finite)
    is_sound = are_finite & all_finite(sizes)
    new_params = dict(params)
    for name, update in updates.items():
        new = apply_updates(
            rule,
            {name: params[name]},
            {name: clipped(update, sizes[name], limits)},
            hyper,
        )
        new_params[name] = torch.where(is_sound, new[name], params[name])
    kept = {name: new_state[name] for name in params if name in grads or name in state}
    return new_params, kept, StepReport(is_sound, peaks, sizes)


def peaks_of(grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the largest magnitude in each gradient."""
    # Twenty times as fast as the infinity norm on a CPU, and not a number likewise.
    return {
        name: torch.maximum(-grad.amin(), grad.amax()) for name, grad in grads.items()
    }


def all_finite(values: Mapping[str, Tensor]) -> Tensor:
    """Return whether all of some numbers are finite, without waiting for them."""
    return torch.stack([value.isfinite() for value in values.values()]).all()


def tamed(
    grad: Tensor, peak: Tensor, are_finite: Tensor, limits: SafetyConfig
) -> Tensor:
    """Return a gradient within its limit; zeros if any gradient is not finite."""
    small = grad * (limits.max_gradient / peak).clamp(max=1)
    return torch.where(are_finite, small, 0.0)


def sizes_of(
    rule: AbstractRule, updates: Mapping[str, Tensor], are_finite: Tensor
) -> dict[str, Tensor]:
    """Return the size of each update in nominal steps; 0 without finite gradients."""
    return {
        name: torch.where(
            are_finite,
            torch.linalg.vector_norm(update)
            / (math.sqrt(update.numel()) * rule.step_size),
            0.0,
        )
        for name, update in updates.items()
    }


def clipped(update: Tensor, size: Tensor, limits: SafetyConfig) -> Tensor:
    """Return an update, scaled down to one nominal step if it is too large."""
    return update * torch.where(size > limits.max_update, 1 / size, 1)


def chosen(
    condition: Tensor, first: ParameterState, second: ParameterState
) -> ParameterState:
    """Return one state or the other, without waiting for the condition."""
    return {key: torch.where(condition, first[key], second[key]) for key in first}
