"""Count the inner steps per second of meta-training, estimator by estimator.

Everything is timed in turns, so that other load on the machine affects all alike.
Compiling takes minutes.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from l2o import PRESETS, Rule
from meta_train import estimator_config as configs
from meta_train.es_lanes import PerturbedRuns
from meta_train.estimators import InnerProblem, add_meta_gradient, start_problem
from meta_train.log import write_json_lines
from meta_train.provenance import provenance
from meta_train.unroll import ProblemStart, RuleOnGraph
from optimizees import FunctionalTask, TaskName, load_task
from optimizees.devices import choose_device

from .checks import check_known, check_repetitions
from .report import github_table, rows_report
from .runs import RESULTS, Row, config_values, use_threads
from .step_cost import Subject, time_in_turns

_STEPS = 20
"""Inner steps of one timed call, and the window of every estimator."""

ESTIMATORS: dict[str, configs.EstimatorConfig] = {
    "one_step": configs.OneStepConfig(),
    "one_step, a quarter replayed": configs.OneStepConfig(replay=0.25),
    "first_order": configs.FirstOrderConfig(window=_STEPS, replay=1.0),
    "first_order, a quarter replayed": configs.FirstOrderConfig(
        window=_STEPS, replay=0.25
    ),
    "imitation, a tenth replayed": configs.ImitationConfig(replay=0.1),
    "tbptt, first order": configs.TBPTTConfig(window=_STEPS, second_order=False),
    "tbptt, second order": configs.TBPTTConfig(window=_STEPS),
    "nres, four pairs in turn": configs.EvolutionConfig(pairs=4),
    "nres, four pairs stacked": configs.EvolutionConfig(pairs=4, stacked=True),
}
"""What is timed, by the name in the table."""

NETWORKS: dict[TaskName, int] = {"fashion-mlp": 7, "fashion-cnn": 14}
"""Side of the images of each inner problem, in pixels."""


ROWS = RESULTS / "meta-speed.jsonl"


@dataclass(frozen=True, kw_only=True)
class MetaSpeedConfig:
    """What is timed, how often and where."""

    rules: tuple[str, ...] = ("default-ff", "default")
    """Presets, untrained."""
    compile: tuple[bool, ...] = (False, True)
    """Whether the rule is compiled."""
    batch_size: int = 64
    """Images per batch."""
    repetitions: int = 7
    """Times that each is timed, 20 inner steps each time."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    results: Path = ROWS
    """JSON lines file, replaced by each run."""

    def __post_init__(self) -> None:
        check_known("MetaSpeedConfig rules", self.rules, PRESETS)
        check_repetitions("MetaSpeedConfig", self.repetitions, least=2)


CONFIG = MetaSpeedConfig()


def run(config: MetaSpeedConfig, announce: Callable[[str], object]) -> None:
    """Time every estimator on every network and write one row each."""
    use_threads(config.threads)
    place = choose_device(config.device)
    rows: list[Row] = []
    origin = {"config": config_values(config), "provenance": provenance()}
    for network, size in NETWORKS.items():
        task = FunctionalTask(
            load_task(
                network,
                batch_size=config.batch_size,
                image_size=size,
                data="embedded",
                device=place,
            )
        )
        problems = _problems(config, task)
        subjects = [
            Subject(name=name, call=call) for name, (call, _) in problems.items()
        ]
        for subject in subjects:
            announce(f"warming up: {network}, {subject.name}")
            subject.call()
        announce(f"timing {len(subjects)} choices on {network}")
        seconds = time_in_turns(subjects, config.repetitions)
        for name, (_, lanes) in problems.items():
            low, middle, high = statistics.quantiles(seconds[name], n=4)
            rule, kind, estimator = name.split(" | ")
            rows.append(
                {
                    "network": f"{network}, {size} px",
                    "rule": rule,
                    "compiled": kind == "compiled",
                    "estimator": estimator,
                    "steps_per_s": round(lanes * _STEPS / middle, 2),
                    "quartiles": [round(lanes * _STEPS / t, 2) for t in (high, low)],
                    **origin,
                }
            )
    write_json_lines(config.results, rows)


def _page(rows: list[Row]) -> list[str]:
    """Return a table for each inner problem, then where it was measured."""
    parts = ["# Inner steps per second of meta-training", _NOTES]
    for network in dict.fromkeys(row["network"] for row in rows):
        found = [row for row in rows if row["network"] == network]
        columns = list(dict.fromkeys((row["rule"], row["compiled"]) for row in found))
        cells = {
            (row["estimator"], row["rule"], row["compiled"]): row["steps_per_s"]
            for row in found
        }
        lines = [
            [name, *(f"{cells[name, *column]:.0f}" for column in columns)]
            for name in dict.fromkeys(row["estimator"] for row in found)
        ]
        headers = [f"{rule}{', compiled' * done}" for rule, done in columns]
        parts += [f"## {network}", github_table(lines, ["estimator", *headers])]
    machine = rows[0]["provenance"]["machine"]
    parts.append(
        f"Batches of {rows[0]['config']['batch_size']}; {machine['processor']}, "
        f"{machine['threads']} thread(s), {rows[0]['config']['device']}."
    )
    return parts


_NOTES = """\
Median over calls of 20 inner steps, taken in turns. An inner step is one of one
network: its loss and gradient on a fresh batch, its update, and its share of the
meta-gradient. Eight networks of `nres` make eight."""


def _problems(
    config: MetaSpeedConfig, task: FunctionalTask
) -> dict[str, tuple[Callable[[], object], int]]:
    """Return what is timed: a call, and the networks that it moves."""
    found: dict[str, tuple[Callable[[], object], int]] = {}
    for preset in config.rules:
        for compile in config.compile:
            rule = Rule(PRESETS[preset]).to(task.task.device)
            bound = RuleOnGraph(rule, task, compile=compile)
            for name, estimator in ESTIMATORS.items():
                problem = start_problem(
                    estimator, ProblemStart(task, bound, seed=0, length=10**9)
                )
                lanes = problem.num_lanes if isinstance(problem, PerturbedRuns) else 1
                kind = "compiled" if compile else "eager"
                found[f"{preset} | {kind} | {name}"] = (
                    partial(_advance, estimator, problem, rule),
                    lanes,
                )
    return found


def _advance(
    estimator: configs.EstimatorConfig, problem: InnerProblem, rule: Rule
) -> None:
    """Take the timed steps; the last entry read makes an accelerator finish."""
    rule.zero_grad()
    generator = torch.Generator().manual_seed(0)
    losses = add_meta_gradient(estimator, problem, _STEPS, generator)
    assert len(losses) == _STEPS


report = rows_report("l2o benchmark meta-speed", _page)
