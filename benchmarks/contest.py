"""A contest: tasks x optimizers x seeds; `fashion` and `transfer` are two of them.

An opponent's learning rate is chosen on validation data, in runs that do not train on
it. Whatever is tested then trains on all training data. Rules and their teacher have
nothing to choose.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from l2o.rule.checkpoint import DEFAULT_RULE
from optimizees.named_tasks import TaskName, budget_of
from optimizees.task_loader import DataChoice

from .opponents import OPPONENTS, Grid, find_opponent
from .optimizers import (
    OpponentSpec,
    OptimizerSpec,
    RuleSettings,
    TeacherSpec,
    rule_spec,
)
from .runs import Row, TrainingRun
from .summary import Measure
from .tuning import check_grid, tune

PAPER_SEEDS = (101, 102, 103, 104, 105)
"""The paper's seeds of the networks that are trained for a result."""

Complete: TypeAlias = Callable[[Iterable[TrainingRun]], list[Row]]
"""Returns the rows of all runs, in their order, or raises `RowsMissing`."""


class RowsMissing(Exception):
    """Rows that a choice depends on are not there yet."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Which optimizers train which networks, from which seeds, and for how long.

    Raises:
        ValueError: if an opponent is unknown or has no rising grid of learning rates,
            or if an evaluation does not lie within a run.
    """

    tasks: tuple[TaskName, ...]
    """The tasks, in order."""
    rules: tuple[str, ...] = (DEFAULT_RULE, "ng-gnn", "ff")
    """Shipped rules, or paths of rule files."""
    bfloat16_rules: tuple[str, ...] = ()
    """Rules that also run with a state in bfloat16."""
    averaged_rules: tuple[str, ...] = ()
    """Rules that also run with averaged weights, which are evaluated then."""
    horizon_rules: tuple[str, ...] = ()
    """Rules that also run with `total_steps`: their updates fall to zero at the end."""
    misled_rules: tuple[str, ...] = ()
    """Rules that are also told wrong numbers of steps."""
    told_shares: tuple[float, ...] = (0.5, 2.0)
    """What `misled_rules` are told, as multiples of the number of steps."""
    scaled_rules: tuple[str, ...] = ()
    """Rules that also run with their updates multiplied by `scale`."""
    scale: float = 0.1
    """Multiplier of `scaled_rules`."""
    grouped_rules: tuple[str, ...] = ()
    """Rules that also run with momenta whitened by groups of `group_rows` rows, as
    those of wide layers are by 1,024."""
    group_rows: int = 8
    """Rows per group of `grouped_rules`."""
    with_teacher: bool = True
    """Whether the hand-designed optimizer that the rules imitated runs, too."""
    opponents: tuple[str, ...] = ()
    """Opponents whose learning rate is tuned, in order."""
    lrs: dict[str, Grid] = field(default_factory=dict)
    """Learning rates of each opponent to tune over, in rising order; an opponent that
    is left out has those of its own."""
    untuned: tuple[str, ...] = ()
    """Opponents that are tested at the learning rate that their users begin with."""
    tune_by: Measure = "accuracy"
    """Measure that chooses between learning rates, where a task has classes."""
    extensions: int = 3
    """How often a grid may grow by a factor of two beyond an end that did best."""
    test_all_lrs: bool = False
    """Whether every learning rate of a grid is tested, and not the chosen one alone."""
    untuned_lrs: tuple[float, ...] = ()
    """Learning rates at which Adam is tested without tuning."""
    seeds: tuple[int, ...] | None = PAPER_SEEDS
    """Seeds of initial weights and batches; None for the task's own number of them,
    from 101 on."""
    control_rules: tuple[str, ...] = ()
    """Rules that also run from `control_seeds`, to be compared with themselves."""
    control_seeds: tuple[int, ...] = (201, 202, 203, 204, 205)
    """Seeds that nothing else is tested from."""
    selection_seeds: tuple[int, ...] = (9001, 9002)
    """The same, for the choice of learning rates."""
    steps: int | None = 1000
    """Steps of each run; None for the task's own number."""
    evaluate_at: tuple[float, ...] | None = ()
    """Shares of a run after which to evaluate, besides its end; None for the task's
    own number of evaluations."""
    points: int | None = None
    """Points of each training curve in the results; None for one in ten steps."""
    batch_size: int | None = None
    """Examples per batch; None for the task's own number."""
    data: DataChoice = "auto"
    """Which copy of FashionMNIST; `full` fails where it is absent."""
    threads: int | None = None
    """CPU threads of a worker; None for all cores, shared among the workers."""
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    workers: int = 1
    """Processes that share the runs; further ones may be started at any time, by the
    same command."""
    known: tuple[Path, ...] = ()
    """Results of other benchmarks, whose rows are copied where they fit."""
    results: Path
    """JSON lines file that rows are appended to; rows that are there are kept."""

    def __post_init__(self) -> None:
        for name in self.untuned:
            find_opponent(name)
        for name in self.opponents:
            check_grid(self.grid(name), name)
        if self.workers < 1:
            raise ValueError(
                f"Contest needs at least one worker; got workers={self.workers}. Leave "
                "it out, or pass the number of processes."
            )
        for task in self.tasks:
            steps = self.steps_of(task)
            stops = [0, *self.stops(task), steps]
            if stops != sorted(set(stops)):
                raise ValueError(
                    "Contest needs at least one step between evaluations; got "
                    f"{stops[1:]} for evaluate_at={self.evaluate_at} and {steps} "
                    "steps. Raise steps, or leave both out."
                )

    def grid(self, name: str) -> Grid:
        """Return the learning rates that an opponent is tuned over at first."""
        return self.lrs.get(name, find_opponent(name).lrs)

    def steps_of(self, task: TaskName) -> int:
        """Return the steps of each run of a task."""
        return budget_of(task).steps if self.steps is None else self.steps

    def stops(self, task: TaskName) -> tuple[int, ...]:
        """Return the steps after which to evaluate, besides the last one."""
        shares = self.evaluate_at
        if shares is None:
            number = budget_of(task).evaluations
            shares = tuple(index / number for index in range(1, number))
        return tuple(round(share * self.steps_of(task)) for share in shares)

    @cached_property
    def fixed(self) -> list[OptimizerSpec]:
        """What is not tuned: opponents at given rates, rules, their teacher.

        Raises:
            FileNotFoundError: if a rule does not exist.
        """
        found: list[OptimizerSpec] = [
            OpponentSpec(name="adam", lr=lr) for lr in self.untuned_lrs
        ]
        found += [
            OpponentSpec(name=name, lr=OPPONENTS[name].untuned_lr)
            for name in self.untuned
        ]
        ways = (
            (self.rules, RuleSettings()),
            (self.bfloat16_rules, RuleSettings(state="bfloat16")),
            (self.averaged_rules, RuleSettings(average=True)),
            (self.horizon_rules, RuleSettings(knows_length=True)),
            *(
                (self.misled_rules, RuleSettings(knows_length=True, told_share=share))
                for share in self.told_shares
            ),
            (self.scaled_rules, RuleSettings(scale=self.scale)),
            (self.grouped_rules, RuleSettings(whitening_rows=self.group_rows)),
        )
        found += [rule_spec(rule, way) for rules, way in ways for rule in rules]
        return [*found, TeacherSpec()] if self.with_teacher else found

    def selection(self, task: TaskName, spec: OptimizerSpec) -> list[TrainingRun]:
        """Return the runs that measure one optimizer on validation data."""
        return [
            self._run(task, spec, seed, is_final=False) for seed in self.selection_seeds
        ]

    def final(
        self,
        task: TaskName,
        spec: OptimizerSpec,
        seeds: tuple[int, ...] | None = None,
    ) -> list[TrainingRun]:
        """Return the runs on all training data, measured on the test data.

        Args:
            task: what is trained.
            spec: what trains it.
            seeds: other seeds than the contest's.
        """
        if seeds is None:
            seeds = self.seeds or tuple(
                PAPER_SEEDS[0] + index for index in range(budget_of(task).seeds)
            )
        return [self._run(task, spec, seed, is_final=True) for seed in seeds]

    def _run(
        self, task: TaskName, spec: OptimizerSpec, seed: int, *, is_final: bool
    ) -> TrainingRun:
        steps = self.steps_of(task)
        return TrainingRun(
            task=task,
            optimizer=spec,
            seed=seed,
            steps=steps,
            evaluate_at=self.stops(task) if is_final or self.evaluate_at else (),
            batch_size=self.batch_size or budget_of(task).batch_size,
            train_split="train+validation" if is_final else "train",
            held_out_split="test" if is_final else "validation",
            curve_every=10 if self.points is None else max(1, steps // self.points),
        )


def run_with(contest: Contest, complete: Complete) -> None:
    """Tune and test each opponent, then test what has nothing to tune.

    Args:
        contest: what to run.
        complete: completes runs. If it raises `RowsMissing`, whatever depends on those
            rows is left out, and the others are asked for.
    """
    for task in contest.tasks:
        for name in contest.opponents:
            with suppress(RowsMissing):
                for lr in _tested_lrs(contest, task, name, complete):
                    complete(contest.final(task, OpponentSpec(name=name, lr=lr)))
        with suppress(RowsMissing):
            complete(
                item for spec in contest.fixed for item in contest.final(task, spec)
            )
        with suppress(RowsMissing):
            complete(
                item
                for rule in contest.control_rules
                for item in contest.final(task, rule_spec(rule), contest.control_seeds)
            )


def _tested_lrs(
    contest: Contest, task: TaskName, name: str, complete: Complete
) -> Grid:
    """Return the learning rates of an opponent to test: the best, or all of a grid."""

    def runs(lr: float) -> list[TrainingRun]:
        return contest.selection(task, OpponentSpec(name=name, lr=lr))

    grid = contest.grid(name)
    complete(item for lr in grid for item in runs(lr))  # all at once: they are shared
    best = tune(
        grid,
        lambda lr: complete(runs(lr)),
        extensions=contest.extensions,
        by=contest.tune_by,
    )
    return grid if contest.test_all_lrs else (best,)
