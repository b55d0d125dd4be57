"""`l2o demo`: learned optimizers and Adam on one small network, in minutes."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from l2o import NeuralGraphOpt
from l2o.rule.checkpoint import DEFAULT_RULE
from optimizees import Task, TaskLoader
from optimizees.devices import choose_device
from optimizees.task_loader import DataChoice

from .optimizers import ADAM_LR
from .pictures import Panel, save_curves
from .protocol import BuildOptimizer, TrainingCurve, train
from .report import github_table
from .runs import use_threads
from .summary import spread

_BATCH_SIZE = 128
"""Images per batch."""

OPTIMIZERS: dict[str, BuildOptimizer] = {
    f"{DEFAULT_RULE} (the default), averaged": lambda model: NeuralGraphOpt(
        model.parameters(), average=True
    ),
    "ng-gnn": lambda model: NeuralGraphOpt(model.parameters(), rule="ng-gnn"),
    f"Adam, lr {ADAM_LR:g} (tuned)": lambda model: torch.optim.Adam(
        model.parameters(), lr=ADAM_LR
    ),
    "Adam, lr 0.001 (default)": lambda model: torch.optim.Adam(model.parameters()),
}


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Train the paper's FashionMNIST network with learned optimizers and with Adam.

    Takes a few minutes on two cores. With the full data where it is found, else with
    the subset that comes with the library.
    """

    seeds: int = 2
    """Number of networks that each optimizer trains."""
    steps: int = 1000
    """Steps of each run."""
    threads: int | None = None
    """CPU threads; by default all cores."""
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    data: DataChoice = "auto"
    """Which copy of FashionMNIST; `full` fails where it is absent."""
    out: Path = Path("demo.png")
    """Where the curves are drawn."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(
                f"demo needs at least one seed; got seeds={self.seeds}. "
                "Leave it out for two."
            )
        if self.steps < 1:
            raise ValueError(
                f"demo needs at least one step; got steps={self.steps}. "
                "Leave it out for 1,000."
            )

    def run(self) -> None:
        """Run the demo."""
        run_demo(self)


def run_demo(config: DemoConfig) -> None:
    """Train, print a table and draw the curves.

    Args:
        config: the demo.

    Raises:
        FileNotFoundError: if the full data is asked for and not there.
        ValueError: if the device is not there.
        OSError: if the picture cannot be written.
    """
    use_threads(config.threads)
    start = time.monotonic()
    loader = TaskLoader(data=config.data, device=choose_device(config.device))
    task = loader.load(
        "fashion-cnn",
        batch_size=_BATCH_SIZE,
        train_split="train+validation",
        held_out=("test",),
    )
    seeds = [101 + index for index in range(config.seeds)]
    for kind, split in (("Training", "train+validation"), ("Test", "test")):
        source = loader.images("fashion-mnist", split, None).source
        print(f"{kind + ' data:':15}{source}")
    print(
        f"Network:       the paper's CNN, {_num_parameters(task):,} parameters\n"
        f"Runs:          {len(OPTIMIZERS)} optimizers, n = {len(seeds)} "
        f"(seeds {', '.join(map(str, seeds))}), {config.steps:,} steps of "
        f"{_BATCH_SIZE} images, {torch.get_num_threads()} CPU thread(s), "
        f"on {task.device}"
    )
    curves: dict[str, list[TrainingCurve]] = {name: [] for name in OPTIMIZERS}
    for seed in seeds:
        for name, build_optimizer in OPTIMIZERS.items():
            curve = train(
                task,
                build_optimizer,
                seed=seed,
                steps=config.steps,
                split="test",
                label=f"{name}, seed {seed}",
            )
            curves[name].append(curve)
            print(f"  {name}, seed {seed}: {_summary(curve)}", flush=True)
    print()
    print(_table(curves))
    panel = Panel(
        title=f"FashionMNIST, the paper's CNN: mean of n = {len(seeds)} networks, "
        "band from lowest to highest",
        curves={name: [curve.curve for curve in runs] for name, runs in curves.items()},
        every=10,
    )
    print(f"\nTook {time.monotonic() - start:.0f} s. {_drawn(config.out, panel)}")


def _drawn(path: Path, panel: Panel) -> str:
    """Draw the curves where that is possible; say where they are."""
    try:
        save_curves(path, [panel])
    except ModuleNotFoundError as error:
        return f"Curves need the package {error.name}: pip install 'l2o[benchmarks]'."
    return f"Curves: {path.resolve()}"


def _num_parameters(task: Task) -> int:
    return sum(param.numel() for param in task.init_model(seed=0).parameters())


def _summary(curve: TrainingCurve) -> str:
    """Say in a few words how a run ended."""
    accuracy = curve.scores[-1].accuracy
    ending = (
        "no test accuracy" if accuracy is None else f"{accuracy:.1%} on test images"
    )
    return f"{ending}, diverged" if curve.diverged else ending


def _table(curves: dict[str, list[TrainingCurve]]) -> str:
    """Return one line for each optimizer, over its seeds."""
    lines = []
    for name, runs in curves.items():
        last = [run.scores[-1] for run in runs]
        losses = [score.train_loss for score in last if score.train_loss is not None]
        accuracies = [score.accuracy for score in last if score.accuracy is not None]
        lines.append(
            (
                name,
                len(runs),
                spread(losses, 3),
                spread(accuracies, 1, scale=100),
                sum(run.diverged for run in runs),
                f"{statistics.fmean(run.optimizer_ms for run in runs):.1f}",
                f"{statistics.fmean(run.loss_ms for run in runs):.1f}",
            )
        )
    return github_table(
        lines,
        (
            "optimizer",
            "n",
            "training loss, last 50",
            "test accuracy %",
            "diverged",
            "optimizer ms per step",
            "forward+backward ms",
        ),
    )
