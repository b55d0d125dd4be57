"""Five times the paper's length: does a rule stay stable after its 1,000 steps?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optimizees.named_tasks import DataChoice

from .baselines import Adam
from .fashion import SEEDS
from .optimizers import ADAM_LR, Contender, learned
from .report import report_long
from .runs import RESULTS, Trial, config_values, run_trials, use_threads

ROWS = RESULTS / "long.jsonl"


@dataclass(frozen=True, kw_only=True)
class LongConfig:
    """Train for 5,000 steps, five times the length that the rules are selected on."""

    rules: tuple[str, ...] = ("ng-gnn", "ff")
    """Shipped rules, or paths of rule files."""
    adam_lrs: tuple[float, ...] = (ADAM_LR,)
    """Learning rates of Adam, for reference."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of initial weights and batches."""
    evaluate_at: int = 1000
    """Step after which to evaluate first."""
    steps: int = 5000
    """Steps of each run; the second evaluation follows the last."""
    batch_size: int = 128
    """Images a batch."""
    data: DataChoice = "auto"
    """Which copy of FashionMNIST; `full` fails where it is absent."""
    threads: int | None = None
    """CPU threads; by default all cores."""
    results: Path = ROWS
    """JSON lines file that rows are appended to; rows that are there are kept."""

    def __post_init__(self) -> None:
        if not 1 <= self.evaluate_at < self.steps:
            raise ValueError(
                "LongConfig evaluate_at must lie before the last step; got "
                f"{self.evaluate_at} of {self.steps} steps. Lower it."
            )


CONFIG = LongConfig()
report = report_long


def run(config: LongConfig, announce: Callable[[str], object]) -> None:
    """Run what is not in the results yet.

    Args:
        config: the benchmark.
        announce: called with one line for each run.

    Raises:
        FileNotFoundError: if a rule or the full data is asked for and not there.
        OSError: if the results cannot be written.
    """
    use_threads(config.threads)
    contenders: list[Contender] = [learned(rule) for rule in config.rules]
    contenders += [Adam(lr=lr) for lr in config.adam_lrs]
    trials = [
        Trial(
            contender=contender,
            seed=seed,
            steps=config.steps,
            evaluate_at=(config.evaluate_at,),
            batch_size=config.batch_size,
            train_split="train+validation",
            held_out_split="test",
        )
        for contender in contenders
        for seed in config.seeds
    ]
    run_trials(
        trials,
        config.results,
        data=config.data,
        config=config_values(config),
        announce=announce,
    )
