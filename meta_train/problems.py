"""Tasks and rules bound to their graphs, each built once."""

from collections.abc import Mapping
from functools import cache
from typing import Literal, assert_never

import torch

from l2o import AbstractRule
from l2o.rule.horizon import with_aim, with_horizon
from optimizees import FunctionalTask, Task, TaskLoader, build_problem
from optimizees.image_tasks import describe

from .config import MetaTrainConfig
from .estimator_config import EstimatorConfig, ImitationConfig
from .task_config import (
    AnyTaskConfig,
    FactoryConfig,
    FamilyConfig,
    GivenTaskConfig,
    TaskConfig,
    call_factory,
)
from .teacher_tuning import tuned
from .unroll import RuleOnGraph


class TaskBuilder:
    """Tasks, and the rule bound to their graphs.

    Args:
        config: the run; its data, tasks and compilation matter.
        rule: what is bound.
        device: where everything lies.
        given: the tasks that `GivenTaskConfig` names.
    """

    def __init__(
        self,
        config: MetaTrainConfig,
        rule: AbstractRule,
        device: torch.device,
        given: Mapping[str, Task] | None = None,
    ) -> None:
        self.config = config
        self.rule = rule
        self.device = device
        self.task = cache(self._build_task)
        self._graphs: dict[object, RuleOnGraph] = {}
        self._given = {} if given is None else dict(given)
        self._loader = TaskLoader(data=config.data, device=device)
        self.estimator = cache(self._fitted_estimator)
        self.rates: dict[str, float] = {}

    def _build_task(self, config: AnyTaskConfig, member: int = 0) -> FunctionalTask:
        """Build a task; of a family, its member of that number."""
        match config:
            case TaskConfig():
                task = self._loader.load(
                    config.name,
                    batch_size=config.batch_size,
                    held_out=self._splits,
                    image_size=config.image_size,
                )
                return FunctionalTask(task)
            case FactoryConfig():
                return FunctionalTask(call_factory(config.factory, self.device))
            case GivenTaskConfig():
                return FunctionalTask(self._given_task(config.name))
            case FamilyConfig():
                generator = torch.Generator().manual_seed(config.seed)
                for _ in range(member):
                    config.family.draw(generator)
                problem = config.family.draw(generator)
                # Pooled here, where tasks of one size share the images.
                train, validation = (
                    self._loader.images("fashion-mnist", split, problem.image_size)
                    for split in ("train", "validation")
                )
                return FunctionalTask(
                    build_problem(problem, train, {"validation": validation}),
                    unit_spread=problem.unit_spread,
                    unit_seed=problem.seed,
                )
            case _:
                assert_never(config)

    def _given_task(self, name: str) -> Task:
        if name not in self._given:
            raise ValueError(
                f"MetaTrainConfig names the task {name!r}, which is handed over in "
                f"Python; got {sorted(self._given) or 'none'}. Start the run with "
                "meta_train.train and all of its tasks."
            )
        return self._given[name].to(self.device)

    @property
    def _splits(self) -> tuple[Literal["validation", "test"], ...]:
        return (
            ("validation", "test")
            if self.config.validation.with_test
            else ("validation",)
        )

    def bound(self, config: AnyTaskConfig, member: int = 0) -> RuleOnGraph:
        """Return the rule on a task's graph; tasks that differ in data only share it.

        Args:
            config: the task.
            member: of a family; 0 for a named task.
        """
        task = self.task(config, member)
        shapes = {name: param.shape for name, param in task.init_params(0).items()}
        key = (tuple(shapes.items()), repr(task.module(task.init_params(0))))
        if key not in self._graphs:
            self._graphs[key] = RuleOnGraph(
                self.rule,
                task,
                compile=self.config.compile,
                captures=self.config.cuda_graphs,
            )
        return self._graphs[key]

    def told(
        self,
        config: AnyTaskConfig,
        member: int = 0,
        *,
        horizon: int | None = None,
        is_averaged: bool = False,
    ) -> RuleOnGraph:
        """Return the rule on a task's graph, told what the run is for.

        Args:
            config: the task.
            member: of a family; 0 for a named task.
            horizon: number of steps of the whole run; None leaves it unknown.
            is_averaged: whether the averaged weights count, not the latest.
        """
        bound = self.bound(config, member)
        rule = with_aim(with_horizon(bound.rule, horizon), is_averaged=is_averaged)
        return bound if rule is bound.rule else bound.with_rule(rule)

    def _fitted_estimator(
        self, config: AnyTaskConfig, member: int = 0
    ) -> EstimatorConfig:
        """Return the run's estimator as it is for a task; trials may come before."""
        estimator = self.config.estimator
        if not isinstance(estimator, ImitationConfig) or not estimator.rates:
            return estimator
        bound = self.bound(config, member)
        fitted = tuned(estimator, self.task(config, member), bound)
        is_family = isinstance(config, FamilyConfig)
        label = self.task(config, member).name if is_family else config.label
        self.rates[label] = fitted.matrix_rate
        return fitted

    def sources(self) -> dict[str, str]:
        """Return which data each task of the run is made of, by the task's label."""
        found = {}
        for config in self.config.tasks:
            if isinstance(config, FamilyConfig):
                images = self._loader.images("fashion-mnist", "train", None)
                found[config.label] = describe(images, None)
            else:
                found[config.label] = self.task(config).task.source
        return found
