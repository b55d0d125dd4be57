"""The rate at which a teacher does best on one problem."""

import math
from dataclasses import replace

from optimizees import FunctionalTask

from .estimator_config import ImitationConfig
from .teacher import Teacher
from .unroll import InnerRun, ProblemStart, RuleOnGraph

_SEED = 0
"""Of the trials' initial parameters and batches, the same for every rate."""


def tuned(
    config: ImitationConfig, task: FunctionalTask, bound: RuleOnGraph
) -> ImitationConfig:
    """Return the estimator with the rate at which its teacher does best on a problem.

    So the rates of a run fit each problem, and a rule that imitates them must learn the
    size of steps from what it reads.

    Args:
        config: the estimator; its `rates` are tried.
        task: the problem.
        bound: the rule on its graph.
    """
    if not config.rates:
        return config
    choices = [
        replace(
            config,
            matrix_rate=factor * config.matrix_rate,
            kernel_rate=None
            if config.kernel_rate is None
            else factor * config.kernel_rate,
            rates=(),
        )
        for factor in config.rates
    ]
    return min(choices, key=lambda choice: _final_loss(choice, task, bound))


def _final_loss(
    config: ImitationConfig, task: FunctionalTask, bound: RuleOnGraph
) -> float:
    """Return the mean loss at the end of a run of the teacher; infinite if it ends."""
    teacher = Teacher.of(bound.rule, config)
    alone = RuleOnGraph(teacher, task, compile=False, graph=bound.graph)
    run = InnerRun(ProblemStart(task, alone, seed=_SEED, length=config.trial_steps))
    losses = run.advance(config.trial_steps)
    if run.has_diverged:
        return math.inf
    counted = losses[-max(1, config.trial_steps // 5) :]
    return sum(counted) / len(counted)
