"""What inner problems are built from, each thing built once."""

from functools import cache, cached_property
from typing import Literal

import torch

from l2o import AbstractRule
from optimizees import ImageData, Task, build_problem, build_task, load_fashion_mnist

from .config import MetaTrainConfig
from .estimator_config import EstimatorConfig, ImitationConfig
from .task_config import AnyTaskConfig, FamilyConfig, TaskConfig
from .teacher_tuning import tuned
from .unroll import RuleOnGraph


class Shelf:
    """Images, tasks, and the rule bound to the graphs of the tasks.

    Args:
        config: the run; its data, tasks and compilation matter.
        rule: what is bound.
        device: where everything lies.
    """

    def __init__(
        self, config: MetaTrainConfig, rule: AbstractRule, device: torch.device
    ) -> None:
        self.config = config
        self.rule = rule
        self.device = device
        self.task = cache(self._build_task)
        self._graphs: dict[object, RuleOnGraph] = {}
        self._images = cache(self._read_images)
        self.estimator = cache(self._fitted_estimator)
        self.rates: dict[str, float] = {}

    def _build_task(self, config: AnyTaskConfig, member: int = 0) -> Task:
        """Build a task; of a family, its member of that number."""
        match config:
            case TaskConfig():
                images = self._images("train", config.image_size)
                return build_task(config.name, images, config.batch_size)
            case FamilyConfig():
                generator = torch.Generator().manual_seed(config.seed)
                for _ in range(member):
                    config.family.draw(generator)
                problem = config.family.draw(generator)
                # Pooled here, where tasks of one size share the images.
                images = self._images("train", problem.image_size)
                return build_problem(problem, images)

    def bound(self, config: AnyTaskConfig, member: int = 0) -> RuleOnGraph:
        """Return the rule on a task's graph; tasks that differ in data only share it.

        Args:
            config: the task.
            member: of a family; 0 for a named task.
        """
        task = self.task(config, member)
        shapes = {name: param.shape for name, param in task.init_params(0).items()}
        key = (tuple(shapes.items()), repr(task.init_model(0)))
        if key not in self._graphs:
            self._graphs[key] = RuleOnGraph(
                self.rule,
                task,
                compile=self.config.compile,
                captures=self.config.cuda_graphs,
            )
        return self._graphs[key]

    def _fitted_estimator(
        self, config: AnyTaskConfig, member: int = 0
    ) -> EstimatorConfig:
        """Return the run's estimator as it is for a task; trials may come before."""
        estimator = self.config.estimator
        if not isinstance(estimator, ImitationConfig) or not estimator.rates:
            return estimator
        bound = self.bound(config, member)
        fitted = tuned(estimator, self.task(config, member), bound)
        is_named = isinstance(config, TaskConfig)
        label = config.label if is_named else self.task(config, member).name
        self.rates[label] = fitted.matrix_rate
        return fitted

    def held_out(
        self, split: Literal["validation", "test"], config: TaskConfig
    ) -> ImageData:
        """Return images that no problem trains on, in the size of a task.

        Args:
            split: "validation" chooses among rules.
            config: the task.
        """
        return self._images(split, config.image_size)

    @cached_property
    def source(self) -> str:
        """Which data the problems are made of."""
        return self._images("train", 28).source

    def _read_images(
        self, split: Literal["train", "validation", "test"], size: int
    ) -> ImageData:
        if size != 28:
            return self._images(split, 28).pooled(size)
        data = load_fashion_mnist(split, source=self.config.data)
        return data.to(self.device)
