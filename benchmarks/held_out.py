"""Rules on networks, and partly data, that no rule was trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from optimizees.named_tasks import DataChoice, HeldOutTask

from .comparison import Contest, run_contests, without_tuning
from .optimizers import learned
from .report_contest import report_contest
from .runs import RESULTS, config_values, use_threads
from .tuning import Grid

_NUM_EVALUATIONS = 5
"""Evaluations of a run, at equal distances; the last one at its end."""


ROWS = RESULTS / "held-out.jsonl"


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
    grouped_rules: tuple[str, ...] = ()
    """Rules that also run with momenta whitened by groups of 16 rows, as those of wide
    layers are by 1,024."""
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
    results: Path = ROWS
    """JSON lines file that rows are appended to; rows that are there are kept."""

    def __post_init__(self) -> None:
        if self.steps < _NUM_EVALUATIONS:
            raise ValueError(
                f"HeldOutConfig needs at least {_NUM_EVALUATIONS} steps, one for each "
                f"evaluation; got {self.steps}. Leave it out for 1,000."
            )


CONFIG = HeldOutConfig()


def run(config: HeldOutConfig, announce: Callable[[str], object]) -> None:
    """Run what is not in the results yet."""
    use_threads(config.threads)
    run_contests(
        held_out_contests(config),
        config.results,
        data=config.data,
        config=config_values(config),
        announce=announce,
    )


def report(results: Path) -> str:
    """Write the tables and curves of a results file."""
    return report_contest("held-out", results)


def held_out_contests(config: HeldOutConfig) -> list[Contest]:
    """Return one contest a task.

    Raises:
        FileNotFoundError: if a rule is not there.
    """
    every = config.steps // _NUM_EVALUATIONS
    return [
        Contest(
            task=task,
            lrs={"adam": config.adam_lrs} if config.adam_lrs else {},
            extensions=config.extensions,
            untuned=(
                *without_tuning(config.rules, with_teacher=config.with_teacher),
                *(learned(rule, whitening_rows=16) for rule in config.grouped_rules),
            ),
            seeds=config.seeds,
            selection_seeds=config.selection_seeds,
            steps=config.steps,
            evaluate_at=tuple(range(every, config.steps, every)),
            batch_size=batch_size(task),
        )
        for task in config.tasks
    ]


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
