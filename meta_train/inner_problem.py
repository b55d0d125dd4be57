"""Inner problems, one after another."""

from typing import Any

import torch
from torch.utils._pytree import tree_map

from .config import MetaTrainConfig
from .estimators import InnerProblem, add_meta_gradient, start_problem
from .problems import TaskBuilder
from .task_config import FamilyConfig
from .unroll import ProblemStart


class ProblemRunner:
    """Runs inner problems one after another, and draws each next one.

    Runners share nothing but theta, and each has its own generator, so what one does
    depends neither on the others nor on the process that it runs in.

    Args:
        config: the run.
        builder: tasks and the rule on them.
        index: number of the runner.
    """

    def __init__(
        self, config: MetaTrainConfig, builder: TaskBuilder, index: int
    ) -> None:
        self.config = config
        self.builder = builder
        seeds = torch.Generator().manual_seed(config.seed)
        drawn = torch.randint(2**31, (index + 1,), generator=seeds)
        self.generator = torch.Generator().manual_seed(int(drawn[index]))
        self.choice = 0
        self.member = 0
        self.horizon: int | None = None
        self.is_averaged = False
        self.problem: InnerProblem | None = None

    def advance(self, outer_step: int) -> tuple[list[float], bool]:
        """Take one outer step's share of inner steps; add to theta's `.grad`.

        A problem that is over is replaced before, so that a checkpoint holds the last
        state of each.

        Args:
            outer_step: updates of theta made so far.

        Returns:
            The loss of each inner step, and whether the problem diverged.
        """
        if self.problem is None or self.problem.is_over:
            is_first = self.problem is None
            self.problem = self._next_problem(outer_step, is_first=is_first)
        task = self.config.tasks[self.choice]
        losses = add_meta_gradient(
            self.builder.estimator(task, self.member),
            self.problem,
            self.config.steps_per_outer,
            self.generator,
        )
        return losses, self.problem.has_diverged

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a new runner of the same index needs to continue."""
        return {
            "generator": self.generator.get_state(),
            "choice": self.choice,
            "member": self.member,
            "horizon": self.horizon,
            "is_averaged": self.is_averaged,
            "problem": None if self.problem is None else self.problem.state_dict(),
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Continue where another runner of the same index stopped."""
        self.generator.set_state(values["generator"])
        self.choice, self.member = values["choice"], values["member"]
        self.horizon = values["horizon"]
        self.is_averaged = values["is_averaged"]
        if values["problem"] is not None:
            self.problem = self._start(seed=0, length=1)
            self.problem.load_state_dict(_moved(values["problem"], self.builder.device))

    def _next_problem(self, outer_step: int, *, is_first: bool) -> InnerProblem:
        """Draw a task, its length, its seed and how much of it is skipped.

        First problems end early, so that runners change problems at different times.
        """
        config, generator = self.config, self.generator
        weights = torch.tensor([task.weight for task in config.tasks])
        self.choice = int(torch.multinomial(weights, 1, generator=generator))
        task = config.tasks[self.choice]
        self.member = 0
        if isinstance(task, FamilyConfig):
            self.member = int(torch.randint(task.members, (1,), generator=generator))
        low, high = unroll_range(config, outer_step)
        place, cut, offset = torch.rand(3, generator=generator).tolist()
        length = low * (high / low) ** place
        if is_first and low != high:
            length *= cut
        seed = int(torch.randint(2**31, (1,), generator=generator))
        whole = max(1, round(length))
        self.horizon = None
        if config.horizon_share:
            knows = float(torch.rand(1, generator=generator)) < config.horizon_share
            self.horizon = whole if knows else None
        self.is_averaged = False
        if config.average_share:
            aim = float(torch.rand(1, generator=generator))
            self.is_averaged = aim < config.average_share
        problem = self._start(seed=seed, length=whole)
        problem.skip(int(config.max_offset * offset * problem.length))
        return problem

    def _start(self, *, seed: int, length: int) -> InnerProblem:
        config = self.config.tasks[self.choice]
        bound = self.builder.told(
            config, self.member, horizon=self.horizon, is_averaged=self.is_averaged
        )
        task = self.builder.task(config, self.member)
        start = ProblemStart(
            task, bound, seed=seed, length=length, is_averaged=self.is_averaged
        )
        return start_problem(self.config.estimator, start)


def unroll_range(config: MetaTrainConfig, outer_step: int) -> tuple[float, float]:
    """Return the shortest and longest life that is drawn at an outer step.

    Args:
        config: the run; `unroll` and `curriculum` matter.
        outer_step: updates of theta made so far.
    """
    low, high = config.unroll
    if outer_step < config.curriculum:
        high = low * (high / low) ** ((outer_step + 1) / config.curriculum)
    return low, high


def _moved(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a problem's state on `device`; samplers place their own."""
    return {
        key: item
        if key == "batches"
        else tree_map(
            lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf,
            item,
        )
        for key, item in values.items()
    }
