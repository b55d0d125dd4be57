"""One interface to all estimators of the meta-gradient."""

from typing import TypeAlias, assert_never

import torch

from .es_lanes import PerturbedRuns
from .estimator_config import (
    EstimatorConfig,
    EvolutionConfig,
    FirstOrderConfig,
    ImitationConfig,
    OneStepConfig,
    TBPTTConfig,
)
from .evolution import evolution
from .gradients import first_order, imitation, one_step, tbptt
from .unroll import InnerRun, ProblemStart

InnerProblem: TypeAlias = InnerRun | PerturbedRuns
"""An inner problem in flight: one network, or pairs of them."""


def start_problem(config: EstimatorConfig, start: ProblemStart) -> InnerProblem:
    """Return a fresh inner problem of the kind that the estimator advances."""
    if isinstance(config, EvolutionConfig):
        return PerturbedRuns(
            start,
            pairs=config.pairs,
            has_centre=config.kind == "es",
            stacked=config.stacked,
        )
    return InnerRun(start)


def add_meta_gradient(
    config: EstimatorConfig,
    problem: InnerProblem,
    steps: int,
    generator: torch.Generator,
) -> list[float]:
    """Advance a problem by `steps` inner steps; add a meta-gradient to theta's `.grad`.

    Args:
        config: which estimator.
        problem: from `start_problem`; it ends early if it diverges.
        steps: inner steps to take.
        generator: draws the steps that are replayed, or the changes of theta.
    """
    if isinstance(problem, PerturbedRuns):
        assert isinstance(config, EvolutionConfig)
        return evolution(config, problem, steps, generator)
    match config:
        case OneStepConfig():
            return one_step(config, problem, steps, generator)
        case FirstOrderConfig():
            return first_order(config, problem, steps, generator)
        case ImitationConfig():
            return imitation(config, problem, steps, generator)
        case TBPTTConfig():
            return tbptt(config, problem, steps)
        case EvolutionConfig():
            raise AssertionError("start_problem pairs it with a PerturbedRuns")
        case _:
            assert_never(config)
