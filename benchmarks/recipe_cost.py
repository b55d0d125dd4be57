"""What the paper's recipe costs at its whole budget: here, and expected on a GPU.

The files are those of `meta_train/configs/paper`: 1,000 outer steps of 100 inner steps.
A few inner steps of each are timed, without compilation, and scaled to the budget;
validation is left out. On a GPU such small networks leave the device idle: what counts
is how fast the host launches operators. They are counted without a GPU.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import meta_train
from meta_train.config import load_config
from meta_train.log import write_json_lines
from meta_train.loop import MetaTrainer
from meta_train.meta_optimizer import initial_rule
from meta_train.provenance import provenance
from optimizees.devices import choose_device

from .launches import launches_of_inner_step
from .protocol import now
from .report import origin_of, rows_report, table_of
from .runs import RESULTS, Row, config_values, use_threads

ROWS = RESULTS / "recipe-cost.jsonl"

_FOLDER = Path(meta_train.__file__).parent / "configs" / "paper"
_LAUNCH_S = 10e-6
"""Assumed seconds per operator of eager PyTorch on a host core, autograd included."""


@dataclass(frozen=True, kw_only=True)
class RecipeCostConfig:
    """Which recipes are timed, and on how many steps."""

    recipes: tuple[str, ...] = ("ff", "lstm", "nfn", "ng-t", "ng-gnn")
    """Files of meta_train/configs/paper."""
    inner_steps: int = 20
    """Inner steps that are timed at once."""
    repetitions: int = 3
    """Times that each is timed; the median counts."""
    threads: int | None = 1
    """CPU threads; None for all cores."""
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    results: Path = ROWS
    """JSON lines file, written anew; `.md` is written with its name."""

    def __post_init__(self) -> None:
        known = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
        is_known = set(self.recipes) <= set(known)
        if not is_known or min(self.inner_steps, self.repetitions) < 1:
            raise ValueError(
                f"RecipeCostConfig needs recipes among {', '.join(known)}, at least "
                f"one inner step and one repetition; got recipes={self.recipes}, "
                f"inner_steps={self.inner_steps}, repetitions={self.repetitions}. "
                "Leave them out for the defaults."
            )


CONFIG = RecipeCostConfig()


def run(config: RecipeCostConfig, announce: Callable[[str], object]) -> None:
    """Time every recipe; write one row each."""
    use_threads(config.threads)
    device = choose_device(config.device)
    rows: list[Row] = []
    for name in config.recipes:
        path = _FOLDER / f"{name}.yaml"
        whole = load_config(path)
        changes = (
            f"steps_per_outer={config.inner_steps}",
            f"unroll=[{config.inner_steps}, {config.inner_steps}]",
            *(f"device={device}", "compile=false", "data=auto"),
            *("validation.every=1000000", "validation.with_test=false"),
        )
        times: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            trainer = MetaTrainer(load_config(path, changes), Path(folder))
            trainer.meta_step()  # traces the network
            for _ in range(config.repetitions):
                start = now(device)
                trainer.meta_step()
                times.append((now(device) - start) / config.inner_steps)
            trainer.close()
        plain, with_autograd = launches_of_inner_step(initial_rule(whole))
        inner = whole.outer_steps * whole.num_tasks * whole.steps_per_outer
        rows.append(
            {
                "recipe": name,
                "outer_steps": whole.outer_steps,
                "inner_steps": inner,
                "seconds_per_outer_step": round(
                    median(times) * inner / whole.outer_steps, 3
                ),
                "seconds_per_inner_step": [round(value, 5) for value in sorted(times)],
                "hours": round(median(times) * inner / 3600, 2),
                "launches": plain,
                "launches_with_autograd": with_autograd,
                "expected_gpu_hours": round(
                    _LAUNCH_S * (plain + with_autograd) * inner / 3600, 2
                ),
                "config": config_values(config),
                "provenance": provenance(),
            }
        )
        announce(f"{name}: {rows[-1]['seconds_per_outer_step']:.2f} s per outer step")
    write_json_lines(config.results, rows)
    announce(report(config.results))


def _page(rows: list[Row]) -> list[str]:
    """Return a line per recipe, and how the columns were found."""
    columns = {
        "recipe": "{recipe}",
        "s per outer step": "{seconds_per_outer_step:.2f}",
        "hours, whole budget": "{hours:.1f}",
        "launches per inner step": "{launches:,}",
        "more with autograd": "{launches_with_autograd:,}",
        "expected on a GPU, hours": "{expected_gpu_hours:.1f}",
    }
    config, first = rows[0]["config"], rows[0]
    return [
        "# The paper's recipe at its whole budget",
        f"{first['outer_steps']:,} outer steps, {first['inner_steps']:,} inner steps, "
        f"without validation and compilation. Timed on {config['device']}: median of "
        f"{config['repetitions']} times {config['inner_steps']} inner steps, scaled to "
        "the budget. Expected on a GPU: launches of a step and of its update with "
        "autograd, forward and backward, counted on the meta device, times "
        f"{1e6 * _LAUNCH_S:.0f} µs. That time per launch is an assumption about the "
        "host; `l2o benchmark gpu-check` measures the recipe on a GPU.",
        table_of(rows, columns),
        origin_of(rows),
    ]


report = rows_report("l2o benchmark recipe-cost", _page)
