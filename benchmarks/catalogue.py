"""Every benchmark by its name: the one place that lists them.

A benchmark is a module, or a package, that offers these names:

* `ROWS`: the path of its results, a JSON lines file.
* `CONFIG`: an instance of a frozen dataclass, the options of `l2o benchmark NAME` and
  their defaults. The module's docstring is the help text.
* `run(config, announce)`: measures what is missing; `announce` takes one line of text.
* `report(results)`: writes the page of a results file and returns its text.

A page about rows of other benchmarks has `ROWS` and `report` alone. Modules are
imported when their benchmark is called.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark is defined."""

    module: str
    """Import path of its module."""
    summary: str
    """One line for `l2o benchmark --help`."""
    rows_from: str | None = None
    """The command that makes its rows, if it has no run of its own."""
    flat: bool = False
    """Whether options of nested dataclasses are named without their group."""


BENCHMARKS: dict[str, Benchmark] = {
    "fashion": Benchmark(
        "benchmarks.fashion",
        "The paper's training task: rules, their teacher and a tuned Adam.",
    ),
    "long": Benchmark("benchmarks.long", "Five times the paper's number of steps."),
    "transfer": Benchmark(
        "benchmarks.transfer", "Rules and tuned opponents on both tasks of the paper."
    ),
    "held-out": Benchmark(
        "benchmarks.held_out", "Networks that no rule was trained on."
    ),
    "scoreboard": Benchmark(
        "benchmarks.scoreboard",
        "Twelve tasks; opponents untuned and tuned, horizon known and not.",
    ),
    "own-task": Benchmark(
        "benchmarks.own_task",
        "A rule meta-trained on one's own task, compared with the default there.",
    ),
    "reproduction": Benchmark(
        "benchmarks.reproduction",
        "The paper's table of learned optimizers, from rows of transfer.",
        rows_from="l2o benchmark transfer",
    ),
    "ablations": Benchmark(
        "benchmarks.ablations",
        "What each part of a recipe contributes, from rows of transfer.",
        rows_from="l2o benchmark transfer",
    ),
    "meta-train": Benchmark(
        "benchmarks.meta_runs",
        "Runs of `l2o meta-train` as a table and curves.",
        rows_from="l2o meta-train",
    ),
    "step-cost": Benchmark(
        "benchmarks.step_cost.benchmark",
        "Time, memory and state of a step, compared with Adam.",
        flat=True,
    ),
    "scaling": Benchmark(
        "benchmarks.scaling",
        "Time of a step against the number of parameters.",
        flat=True,
    ),
    "optimizer-cost": Benchmark(
        "benchmarks.optimizer_cost",
        "State, construction and first step, compared with Adam.",
    ),
    "trace-cost": Benchmark(
        "benchmarks.trace_cost", "Time and memory that finding a neural graph takes."
    ),
    "meta-speed": Benchmark(
        "benchmarks.meta_speed",
        "Inner steps per second of each meta-gradient estimator.",
    ),
    "recipe-cost": Benchmark(
        "benchmarks.recipe_cost",
        "Cost of the paper's recipe at its whole budget, here and expected on a GPU.",
    ),
    "gpu-check": Benchmark(
        "benchmarks.gpu_check",
        "Whether everything works on a GPU, and how fast, in under ten minutes.",
    ),
    "inr-classification": Benchmark(
        "benchmarks.inr.classification",
        "Name the class of the image that a small network represents.",
    ),
    "inr-editing": Benchmark(
        "benchmarks.inr.editing",
        "Edit small networks so that the lines of their images grow.",
    ),
    "inr": Benchmark(
        "benchmarks.inr.classification",
        "The tables of inr-classification and inr-editing together.",
        rows_from="l2o benchmark inr-classification",
    ),
    "inr-speed": Benchmark(
        "benchmarks.inr.speed",
        "Training on dense blocks compared with PyTorch Geometric.",
    ),
    "siren-psnr": Benchmark(
        "benchmarks.inr.psnr", "How well small networks fit their images."
    ),
    "generalization": Benchmark(
        "benchmarks.generalization.benchmark",
        "Predict a network's accuracy from its weights.",
    ),
}


def load_benchmark(name: str, verb: Literal["benchmark", "report"]) -> ModuleType:
    """Import the module of a benchmark.

    Args:
        name: a key of `BENCHMARKS`.
        verb: what it is needed for.

    Raises:
        ValueError: if there is no such benchmark, or it has no run of its own.
    """
    if name not in BENCHMARKS:
        raise ValueError(
            f"l2o {verb} needs one of {', '.join(names_of(verb))}; got {name!r}. "
            f"Run `l2o {verb} --help` for what each one measures."
        )
    source = BENCHMARKS[name].rows_from
    if verb == "benchmark" and source is not None:
        raise ValueError(
            f"l2o benchmark needs a benchmark that makes rows; got {name!r}, whose "
            f"rows come from `{source}`. Run that, then `l2o report {name}`."
        )
    return importlib.import_module(BENCHMARKS[name].module)


def names_of(verb: Literal["benchmark", "report"]) -> list[str]:
    """Return the names that a verb accepts, in order."""
    return [
        name
        for name, item in BENCHMARKS.items()
        if verb == "report" or item.rows_from is None
    ]
