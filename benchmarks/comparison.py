"""Tuned opponents, then optimizers with nothing to tune, on one task."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from optimizees.named_tasks import DataChoice, TaskName

from .baselines import Baseline, BaselineName, baseline
from .optimizers import Contender, Teacher, learned
from .runs import Row, Trial, run_trials
from .tuning import Grid, tune

RunTrials: TypeAlias = Callable[[Iterable[Trial]], list[Row]]
"""Runs what is missing and returns the rows of all trials, in their order."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What competes on one task, and how long."""

    task: TaskName
    """The task."""
    lrs: dict[BaselineName, Grid]
    """The opponents in order, and the learning rates that each is tuned over."""
    extensions: int
    """How often a grid may grow by a factor of two beyond an end that did best."""
    untuned: tuple[Contender, ...]
    """What is tested as it is, after the opponents."""
    seeds: tuple[int, ...]
    """Seeds of initial weights and batches."""
    selection_seeds: tuple[int, ...]
    """The same, for the choice of learning rates."""
    steps: int
    """Steps of each run."""
    evaluate_at: tuple[int, ...] = ()
    """Steps after which to evaluate, besides the last one."""
    batch_size: int
    """Examples a batch."""


def run_contests(
    contests: Iterable[Contest],
    results: Path,
    *,
    data: DataChoice,
    config: dict[str, Any],
    announce: Callable[[str], object],
    known: Iterable[Path] = (),
) -> None:
    """Run what is not in the results yet, contest after contest.

    Args:
        contests: what to run.
        results: the JSON lines file.
        data: which copy of FashionMNIST.
        config: the benchmark's configuration as JSON values, written into each row.
        announce: called with one line for each run.
        known: results of other benchmarks; a row that answers a trial is copied.

    Raises:
        FileNotFoundError: if data is asked for and not there.
        OSError: if the results cannot be written.
    """
    run = partial(
        run_trials,
        results=results,
        data=data,
        config=config,
        announce=announce,
        known=tuple(known),
    )
    for contest in contests:
        run_contest(contest, run)


def run_contest(contest: Contest, run: RunTrials) -> None:
    """Choose each opponent's learning rate on the validation split, then test all.

    The choice is made without the validation data in training; whatever is tested
    trains on all training data.

    Args:
        contest: what to run.
        run: runs trials.
    """
    for name, grid in contest.lrs.items():
        tuned = _tune(contest, name, grid, run)
        run(_test(contest, tuned, seed) for seed in contest.seeds)
    run(
        _test(contest, item, seed) for item in contest.untuned for seed in contest.seeds
    )


def without_tuning(rules: Iterable[str], *, with_teacher: bool) -> list[Contender]:
    """Return rules by their names or paths, and the teacher behind them.

    Raises:
        FileNotFoundError: if a rule is not there.
    """
    found: list[Contender] = [learned(rule) for rule in rules]
    return [*found, Teacher()] if with_teacher else found


def _tune(contest: Contest, name: BaselineName, grid: Grid, run: RunTrials) -> Baseline:
    """Return an opponent at the learning rate that did best on validation data."""

    def measure(lr: float) -> list[Row]:
        return run(
            Trial(
                task=contest.task,
                contender=baseline(name, lr),
                seed=seed,
                steps=contest.steps,
                evaluate_at=contest.evaluate_at,
                batch_size=contest.batch_size,
                train_split="train",
                held_out_split="validation",
            )
            for seed in contest.selection_seeds
        )

    return baseline(name, tune(grid, measure, extensions=contest.extensions))


def _test(contest: Contest, contender: Contender, seed: int) -> Trial:
    """Return a run on all training data, measured on the test data."""
    return Trial(
        task=contest.task,
        contender=contender,
        seed=seed,
        steps=contest.steps,
        evaluate_at=contest.evaluate_at,
        batch_size=contest.batch_size,
        train_split="train+validation",
        held_out_split="test",
    )
