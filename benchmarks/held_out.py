"""Rules on networks, and partly data, that no rule was trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

from .contest import Contest, run_contest, without_tuning
from .selection import Grid
from .trials import RESULTS, config_values, run_trials, use_threads
from .workloads import DataChoice, HeldOutTask

_NUM_EVALUATIONS = 5
"""Evaluations of a run, at equal distances; the last one at its end."""


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """Compare shipped rules with a tuned Adam on networks that they never saw.

    A perceptron on handwritten digits, an autoencoder of clothes, a character model of
    Python's manual, a residual network with batch norm and a vision transformer on
    CIFAR-10. Adam's learning rate is chosen on validation data at the same length; the
    rules have nothing to choose. `--steps 10000` tells whether they stay stable.
    """

    tasks: tuple[HeldOutTask, ...] = (
        "digits-mlp",
        "fashion-autoencoder",
        "text-gpt",
        "cifar-resnet",
        "cifar-vit",
    )
    """The tasks, in order."""
    rules: tuple[str, ...] = ("ng-gnn", "ff")
    """Shipped rules, or paths of rule files."""
    with_teacher: bool = True
    """Whether the hand-designed optimizer that the rules imitated runs, too."""
    adam_lrs: Grid = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """Learning rates of Adam, in rising order."""
    extensions: int = 3
    """How often they may grow by a factor of two beyond an end that did best."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """Seeds of initial weights and batches."""
    selection_seeds: tuple[int, ...] = (9001,)
    """The same, for the choice of Adam's learning rate."""
    steps: int = 1000
    """Steps of each run."""
    data: DataChoice = "auto"
    """Which copy of FashionMNIST; `full` fails where it is absent."""
    threads: int | None = None
    """CPU threads; by default all cores."""
    results: Path = RESULTS / "held-out.jsonl"
    """JSON lines file that rows are appended to; rows that are there are kept."""

    def __post_init__(self) -> None:
        if self.steps < _NUM_EVALUATIONS:
            raise ValueError(
                f"HeldOutConfig needs at least {_NUM_EVALUATIONS} steps, one for each "
                f"evaluation; got {self.steps}. Leave it out for 1,000."
            )


def run_held_out(config: HeldOutConfig, announce: Callable[[str], object]) -> None:
    """Run what is not in the results yet.

    Args:
        config: the benchmark.
        announce: called with one line for each run.

    Raises:
        FileNotFoundError: if a rule or data is asked for and not there.
        OSError: if the results cannot be written.
    """
    use_threads(config.threads)
    run = partial(
        run_trials,
        results=config.results,
        data=config.data,
        config=config_values(config),
        announce=announce,
    )
    rules = without_tuning(config.rules, with_teacher=config.with_teacher)
    every = config.steps // _NUM_EVALUATIONS
    for task in config.tasks:
        contest = Contest(
            task=task,
            lrs={"adam": config.adam_lrs} if config.adam_lrs else {},
            extensions=config.extensions,
            untuned=tuple(rules),
            seeds=config.seeds,
            selection_seeds=config.selection_seeds,
            steps=config.steps,
            evaluate_at=tuple(range(every, config.steps, every)),
            batch_size=batch_size(task),
        )
        run_contest(contest, run)


def batch_size(task: HeldOutTask) -> int:
    """Return the examples of a batch; pieces of 64 characters count as one."""
    match task:
        case "digits-mlp" | "fashion-autoencoder":
            return 128
        case "cifar-resnet" | "cifar-vit":
            return 64
        case "text-gpt":
            return 32
        case _:
            assert_never(task)
