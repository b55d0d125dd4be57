"""Meta-gradients without derivatives: evolution strategies over pairs of runs."""

import torch
from torch import Tensor

from .es_lanes import PerturbedRuns
from .estimator_config import EvolutionConfig

_SMALLEST_LOSS = 1e-3
"""In nats; below it the logarithm of a batch loss stays where it is."""


def evolution(
    config: EvolutionConfig,
    runs: PerturbedRuns,
    steps: int,
    generator: torch.Generator,
) -> list[float]:
    r"""Advance one window and add the estimate to theta's `.grad`.

    .. math::
        g = \frac{1}{2 \sigma n} \sum_i c_i \bigl(
            L(\theta + \sigma \epsilon_i) - L(\theta - \sigma \epsilon_i) \bigr)

    over the pairs :math:`i`, with the window's meta-loss :math:`L` and the credit
    :math:`c`: the change :math:`\epsilon` itself, but for `pes` the sum of all changes
    in the life of the pair.

    Args:
        config: which of the three, and the meta-loss.
        runs: the inner problem; it ends early if every lane diverges.
        steps: inner steps of the window, at most.
        generator: draws the changes.

    Reference:
        Vicol et al., 2021, "Unbiased Gradient Estimation in Unrolled Computation
        Graphs with Persistent Evolution Strategies",
        https://arxiv.org/abs/2112.13835; Li et al., 2023, "Noise-Reuse in Online
        Evolution Strategies", https://arxiv.org/abs/2304.12180. The window's losses are
        averaged, not added, here as in every estimator.
    """
    if config.kind != "nres" or not runs.noise:
        runs.draw_noise(generator)
    theta = runs.changed_theta(config.sigma)
    pairs = runs.pairs
    bounded: list[Tensor] = []
    ends: list[Tensor] = []
    weights: list[float] = []
    for _ in range(min(steps, runs.length - runs.position)):
        bounded.append(_bounded(config, runs, runs.step(theta)))
        ends.append(runs.is_lost.all())
        weights.append(_weight(config, runs))
        if runs.is_known_over:
            break
    total = torch.zeros(runs.num_lanes, dtype=torch.float64)
    is_at_end = config.end_batches > 0
    losses: list[float] = []
    for lanes, weight, is_end in zip(
        _on_host(bounded).double(), weights, _on_host(ends).tolist(), strict=True
    ):
        if not is_at_end:
            total += weight * _counted(config, lanes)
        losses.append(float(lanes[-1] if config.kind == "es" else lanes.mean()))
        if is_end:
            break
    if is_at_end:
        found = _bounded(config, runs, _losses_at_end(config, runs))
        total = len(losses) * _counted(config, _on_host([found])[0].double())
    slope = (total[:pairs] - total[pairs : 2 * pairs]) / (2 * config.sigma)
    credit = runs.memory if config.kind == "pes" else runs.noise
    for name, weight in runs.bound.rule.named_parameters():
        if name in credit:
            change = credit[name]
            sent = slope.to(change.device, change.dtype, non_blocking=True)
            estimate = torch.tensordot(sent, change, dims=1)
            _add_gradient(weight, estimate / (pairs * len(losses)))
    if config.kind == "es":
        runs.gather(-1)
    return losses


def _losses_at_end(config: EvolutionConfig, runs: PerturbedRuns) -> Tensor:
    """Return each lane's loss where it stands, on batches that it never saw."""
    seed = runs.seed + runs.position
    batches = runs.task.unseen_batches(seed, config.end_batches)
    return runs.losses_on(batches, at_average=bool(runs.averages))


def _bounded(config: EvolutionConfig, runs: PerturbedRuns, losses: Tensor) -> Tensor:
    """Return each lane's loss, bounded; the bound itself for one that diverged."""
    bound = config.max_loss * runs.first_losses
    return torch.where(runs.is_lost, bound, losses.minimum(bound))


def _on_host(items: list[Tensor]) -> Tensor:
    """Return tensors of one device as one on the CPU, in one transfer."""
    return torch.stack(items).cpu()


def _counted(config: EvolutionConfig, losses: Tensor) -> Tensor:
    if config.objective == "log":
        return losses.clamp_min(_SMALLEST_LOSS).log()
    return losses


def _weight(config: EvolutionConfig, runs: PerturbedRuns) -> float:
    """Return the weight of the step just taken; 1 on average over a life."""
    last = max(1, round(config.tail * runs.length))
    is_late = runs.position > runs.length - last
    late = runs.length / last if is_late else 0.0
    return 1 - config.final_share + config.final_share * late


def _add_gradient(weight: Tensor, gradient: Tensor) -> None:
    weight.grad = gradient if weight.grad is None else weight.grad + gradient
