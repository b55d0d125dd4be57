"""A contest: tasks x optimizers x seeds; `fashion` and `transfer` are two of them.

An opponent's learning rate is chosen on validation data, in runs that do not train on
it. Whatever is tested then trains on all training data. Rules and their teacher have
nothing to choose.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from optimizees.named_tasks import DataChoice, TaskName

from .opponents import Grid, find_opponent
from .optimizers import OpponentSpec, OptimizerSpec, TeacherSpec, rule_spec
from .runs import Row, TrainingRun, complete_runs, config_values, use_threads
from .tuning import check_grid, tune

PAPER_SEEDS = (101, 102, 103, 104, 105)
"""The paper's seeds of the networks that are trained for a result."""

_BATCH_SIZES: dict[TaskName, int] = {
    "cifar-resnet": 64,
    "cifar-vit": 64,
    "text-gpt": 32,
}
"""Examples per batch; a piece of 64 characters is one. The other tasks take 128."""

Complete: TypeAlias = Callable[[Iterable[TrainingRun]], list[Row]]
"""Runs what is missing and returns the rows of all runs, in their order."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Which optimizers train which networks, from which seeds, and for how long.

    Raises:
        ValueError: if an opponent is unknown or has no rising grid of learning rates,
            or if an evaluation does not lie within a run.
    """

    tasks: tuple[TaskName, ...]
    """The tasks, in order."""
    rules: tuple[str, ...] = ("ng-gnn", "ff")
    """Shipped rules, or paths of rule files."""
    bfloat16_rules: tuple[str, ...] = ()
    """Rules that also run with a state in bfloat16."""
    reuse_rules: tuple[str, ...] = ()
    """Rules that also run with their network in every tenth step only."""
    averaged_rules: tuple[str, ...] = ()
    """Rules that also run with averaged weights, which are evaluated then."""
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
    """Learning rates of each opponent to tune over, in rising order."""
    extensions: int = 3
    """How often a grid may grow by a factor of two beyond an end that did best."""
    test_all_lrs: bool = False
    """Whether every learning rate of a grid is tested, and not the chosen one alone."""
    untuned_lrs: tuple[float, ...] = ()
    """Learning rates at which Adam is tested without tuning."""
    seeds: tuple[int, ...] = PAPER_SEEDS
    """Seeds of initial weights and batches."""
    selection_seeds: tuple[int, ...] = (9001, 9002)
    """The same, for the choice of learning rates."""
    steps: int = 1000
    """Steps of each run."""
    evaluate_at: tuple[float, ...] = ()
    """Shares of a run after which to evaluate, besides its end."""
    batch_size: int | None = None
    """Examples per batch; None for the task's own number."""
    data: DataChoice = "auto"
    """Which copy of FashionMNIST; `full` fails where it is absent."""
    threads: int | None = None
    """CPU threads; None for all cores."""
    known: tuple[Path, ...] = ()
    """Results of other benchmarks, whose rows are copied where they fit."""
    results: Path
    """JSON lines file that rows are appended to; rows that are there are kept."""

    def __post_init__(self) -> None:
        for name in self.opponents:
            find_opponent(name)
            check_grid(self.lrs.get(name, ()), name)
        stops = [0, *self.stops, self.steps]
        if stops != sorted(set(stops)):
            raise ValueError(
                f"Contest needs at least one step between evaluations; got {stops[1:]} "
                f"for evaluate_at={self.evaluate_at} and {self.steps} steps. Raise "
                "steps, or leave both out."
            )

    @property
    def stops(self) -> tuple[int, ...]:
        """Steps after which to evaluate, besides the last one."""
        return tuple(round(share * self.steps) for share in self.evaluate_at)

    @property
    def fixed(self) -> list[OptimizerSpec]:
        """What has nothing to tune: Adam at given rates, rules, their teacher.

        Raises:
            FileNotFoundError: if a rule does not exist.
        """
        found: list[OptimizerSpec] = [
            OpponentSpec(name="adam", lr=lr) for lr in self.untuned_lrs
        ]
        found += [rule_spec(rule) for rule in self.rules]
        found += [rule_spec(rule, state="bfloat16") for rule in self.bfloat16_rules]
        found += [rule_spec(rule, structure_every=10) for rule in self.reuse_rules]
        found += [rule_spec(rule, average=True) for rule in self.averaged_rules]
        found += [
            rule_spec(rule, whitening_rows=self.group_rows)
            for rule in self.grouped_rules
        ]
        return [*found, TeacherSpec()] if self.with_teacher else found

    def selection(self, task: TaskName, spec: OptimizerSpec) -> list[TrainingRun]:
        """Return the runs that measure one optimizer on validation data."""
        return [
            self._run(task, spec, seed, is_final=False) for seed in self.selection_seeds
        ]

    def final(self, task: TaskName, spec: OptimizerSpec) -> list[TrainingRun]:
        """Return the runs on all training data, measured on the test data."""
        return [self._run(task, spec, seed, is_final=True) for seed in self.seeds]

    def _run(
        self, task: TaskName, spec: OptimizerSpec, seed: int, *, is_final: bool
    ) -> TrainingRun:
        return TrainingRun(
            task=task,
            optimizer=spec,
            seed=seed,
            steps=self.steps,
            evaluate_at=self.stops,
            batch_size=self.batch_size or _BATCH_SIZES.get(task, 128),
            train_split="train+validation" if is_final else "train",
            held_out_split="test" if is_final else "validation",
        )


def run(contest: Contest, announce: Callable[[str], object]) -> None:
    """Run what is not in the results yet, task after task.

    Args:
        contest: what to run.
        announce: called with one line for each run.

    Raises:
        FileNotFoundError: if a rule or data is asked for and not there.
        ValueError: if a line of the results is damaged.
        OSError: if the results cannot be written.
    """
    use_threads(contest.threads)
    complete = partial(
        complete_runs,
        results=contest.results,
        data=contest.data,
        config=config_values(contest),
        announce=announce,
        known=contest.known,
    )
    run_with(contest, complete)


def run_with(contest: Contest, complete: Complete) -> None:
    """Tune and test each opponent, then test what has nothing to tune.

    Args:
        contest: what to run.
        complete: completes runs.
    """
    fixed = contest.fixed
    for task in contest.tasks:
        for name in contest.opponents:
            lrs = _tested_lrs(contest, task, name, complete)
            for lr in lrs:
                complete(contest.final(task, OpponentSpec(name=name, lr=lr)))
        complete(item for spec in fixed for item in contest.final(task, spec))


def _tested_lrs(
    contest: Contest, task: TaskName, name: str, complete: Complete
) -> Grid:
    """Return the learning rates of an opponent to test: the best, or all of a grid."""

    def measure(lr: float) -> list[Row]:
        return complete(contest.selection(task, OpponentSpec(name=name, lr=lr)))

    grid = contest.lrs[name]
    best = tune(grid, measure, extensions=contest.extensions)
    return grid if contest.test_all_lrs else (best,)
