"""The paper's training task: a small CNN on FashionMNIST, 1,000 steps, five seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optimizees.named_tasks import DataChoice

from .baselines import Adam
from .optimizers import Contender, Teacher, learned
from .report import report_fashion
from .runs import RESULTS, Trial, config_values, run_trials, use_threads

SEEDS = (101, 102, 103, 104, 105)
"""The paper's seeds of the networks that are trained for a result."""


ROWS = RESULTS / "fashion.jsonl"


@dataclass(frozen=True, kw_only=True)
class FashionConfig:
    """Compare shipped rules with Adam on the paper's FashionMNIST task.

    Every optimizer trains on all training images and is tested on the test images.
    Adam's learning rate is chosen beforehand, on the validation images.
    """

    rules: tuple[str, ...] = ("ng-gnn", "ff")
    """Shipped rules, or paths of rule files."""
    narrow_rules: tuple[str, ...] = ("ng-gnn",)
    """Rules that also run with a state in bfloat16."""
    sparing_rules: tuple[str, ...] = ("ng-gnn",)
    """Rules that also run with their network in every tenth step only."""
    grouped_rules: tuple[str, ...] = ("ng-gnn",)
    """Rules that also run with momenta whitened by groups of 8 rows, as those of wide
    layers are by 1,024."""
    with_teacher: bool = True
    """Whether the hand-designed optimizer that the rules imitated runs, too."""
    adam_lrs: tuple[float, ...] = (1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 4e-2)
    """Learning rates of Adam; each is tested with all seeds."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of initial weights and batches."""
    selection_seeds: tuple[int, ...] = (9001, 9002)
    """The same, for the choice of Adam's learning rate."""
    steps: int = 1000
    """Steps of each run."""
    batch_size: int = 128
    """Images a batch."""
    data: DataChoice = "auto"
    """Which copy of FashionMNIST; `full` fails where it is absent."""
    threads: int | None = None
    """CPU threads; by default all cores."""
    results: Path = ROWS
    """JSON lines file that rows are appended to; rows that are there are kept."""


CONFIG = FashionConfig()
report = report_fashion


def run(config: FashionConfig, announce: Callable[[str], object]) -> None:
    """Run what is not in the results yet.

    Args:
        config: the benchmark.
        announce: called with one line for each run.

    Raises:
        FileNotFoundError: if a rule or the full data is asked for and not there.
        OSError: if the results cannot be written.
    """
    use_threads(config.threads)
    run_trials(
        fashion_trials(config),
        config.results,
        data=config.data,
        config=config_values(config),
        announce=announce,
    )


def fashion_trials(config: FashionConfig) -> list[Trial]:
    """Return every run: the rules, the choice of Adam's learning rate, Adam."""
    rules: list[Contender] = [learned(rule) for rule in config.rules]
    rules += [learned(rule, "bfloat16") for rule in config.narrow_rules]
    rules += [learned(rule, structure_every=10) for rule in config.sparing_rules]
    rules += [learned(rule, whitening_rows=8) for rule in config.grouped_rules]
    rules += [Teacher()] if config.with_teacher else []
    adams = [Adam(lr=lr) for lr in config.adam_lrs]
    tested = [_final(config, item, seed) for item in rules for seed in config.seeds]
    chosen = [
        Trial(
            contender=item,
            seed=seed,
            steps=config.steps,
            batch_size=config.batch_size,
            train_split="train",
            held_out_split="validation",
        )
        for item in adams
        for seed in config.selection_seeds
    ]
    tested_adams = [
        _final(config, item, seed) for item in adams for seed in config.seeds
    ]
    return tested + chosen + tested_adams


def _final(config: FashionConfig, contender: Contender, seed: int) -> Trial:
    """Return a run on all training images, measured on the test images."""
    return Trial(
        contender=contender,
        seed=seed,
        steps=config.steps,
        batch_size=config.batch_size,
        train_split="train+validation",
        held_out_split="test",
    )
