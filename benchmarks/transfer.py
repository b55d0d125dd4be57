"""Rules without tuning against tuned opponents, on both tasks of the paper."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from optimizees.named_tasks import DataChoice, PaperTask

from .baselines import Adam, BaselineName
from .comparison import Contest, run_contests, without_tuning
from .fashion import SEEDS
from .optimizers import Contender
from .report_contest import report_contest
from .runs import RESULTS, config_values, use_threads
from .tuning import Grid

_LIKE_ADAM = (1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 4e-2)


ROWS = RESULTS / "transfer.jsonl"


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Compare shipped rules with tuned opponents on the paper's two tasks.

    An opponent's learning rate is chosen by accuracy on validation images, which it
    does not train on there; then it trains on all training images, as the rules do,
    and is tested. Rules have nothing to choose.
    """

    tasks: tuple[PaperTask, ...] = ("fashion-cnn", "cifar-cnn")
    """The tasks, in order."""
    baselines: tuple[BaselineName, ...] = (
        "adam",
        "adamw-cosine",
        "muon",
        "schedule-free",
        "sgd-cosine",
    )
    """The opponents, in order."""
    rules: tuple[str, ...] = ("ng-gnn", "ff")
    """Shipped rules, or paths of rule files; they come after the opponents."""
    with_teacher: bool = True
    """Whether the hand-designed optimizer that the rules imitated runs, too."""
    lrs: dict[BaselineName, Grid] = field(
        default_factory=lambda: {
            "adam": _LIKE_ADAM,
            "adamw-cosine": _LIKE_ADAM,
            "muon": _LIKE_ADAM,
            "schedule-free": (3e-3, 6e-3, 1e-2, 2e-2, 4e-2, 8e-2),
            "sgd-cosine": (1e-2, 3e-2, 1e-1, 2e-1, 4e-1, 8e-1),
        }
    )
    """Learning rates of each opponent, in rising order."""
    extensions: int = 3
    """How often a grid may grow by a factor of two beyond an end that did best."""
    untuned_lrs: tuple[float, ...] = (1e-3,)
    """Learning rates at which Adam is tested untuned, too."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of initial weights and batches."""
    selection_seeds: tuple[int, ...] = (9001, 9002)
    """The same, for the choice of learning rates."""
    steps: int = 1000
    """Steps of each run."""
    batch_size: int = 128
    """Images a batch."""
    data: DataChoice = "auto"
    """Which copy of FashionMNIST; `full` fails where it is absent."""
    threads: int | None = None
    """CPU threads; by default all cores."""
    known: tuple[Path, ...] = (RESULTS / "fashion.jsonl",)
    """Results of other benchmarks, whose rows are copied where they fit."""
    results: Path = ROWS
    """JSON lines file that rows are appended to; rows that are there are kept."""


CONFIG = TransferConfig()


def run(config: TransferConfig, announce: Callable[[str], object]) -> None:
    """Run what is not in the results yet."""
    use_threads(config.threads)
    run_contests(
        transfer_contests(config),
        config.results,
        data=config.data,
        config=config_values(config),
        announce=announce,
        known=config.known,
    )


def report(results: Path) -> str:
    """Write the tables and curves of a results file."""
    return report_contest("transfer", results)


def transfer_contests(config: TransferConfig) -> list[Contest]:
    """Return one contest a task.

    Raises:
        FileNotFoundError: if a rule is not there.
    """
    adams: list[Contender] = [Adam(lr=lr) for lr in config.untuned_lrs]
    rules = without_tuning(config.rules, with_teacher=config.with_teacher)
    return [
        Contest(
            task=task,
            lrs={name: config.lrs[name] for name in config.baselines},
            extensions=config.extensions,
            untuned=(*adams, *rules),
            seeds=config.seeds,
            selection_seeds=config.selection_seeds,
            steps=config.steps,
            batch_size=config.batch_size,
        )
        for task in config.tasks
    ]
