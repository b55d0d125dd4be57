"""What a step costs: learned optimizers, Adam and the network's own gradient."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from l2o import PRESETS, NeuralGraphOpt, Rule, neural_graph
from meta_train.provenance import provenance
from optimizees import Batch, Task, build_task, load_fashion_mnist

from .trials import RESULTS, Row, config_values, use_threads, write_rows

LOSS = "forward + backward"
FORWARD = "rule forward, paper"
PRODUCT = "product of two 1024 x 1024 matrices"

RELEASED_FORWARD_MS = 227.0
"""Time of the rule's forward pass alone, in the paper's released implementation of
NG-GNN on this network with one CPU thread; measured once, on other hardware."""


@dataclass(frozen=True, kw_only=True)
class StepCostConfig:
    """Time a step of each optimizer on the paper's FashionMNIST network.

    Everything is timed in turns, in a new random order each time, so that whatever
    else the machine does hits all alike. Compiling takes minutes.
    """

    presets: tuple[str, ...] = ("default", "paper", "default-ff", "paper-ff")
    """Rules by preset, untrained: the cost does not depend on their weights."""
    compile: bool = True
    """Whether each rule is timed compiled, too."""
    repetitions: int = 30
    """Times that each is timed."""
    batch_size: int = 128
    """Images a batch."""
    threads: int = 1
    """CPU threads."""
    results: Path = RESULTS / "step-cost.jsonl"
    """JSON lines file, written anew."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.presets) - set(PRESETS))
        if unknown:
            raise ValueError(
                f"StepCostConfig presets must be among {sorted(PRESETS)}; got "
                f"{unknown}. Check the spelling."
            )
        if self.repetitions < 2:
            raise ValueError(
                "StepCostConfig repetitions must be at least 2, for quartiles; got "
                f"{self.repetitions}. Choose 30."
            )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something that is timed."""

    name: str
    """Stands in the table."""
    call: Callable[[], object]
    """Does it once."""
    gflop: float | None = None
    """Floating-point operations in matrix products, in 1e9; None if not counted."""


def run_step_cost(config: StepCostConfig, announce: Callable[[str], object]) -> None:
    """Time everything and write one row each.

    Args:
        config: the benchmark.
        announce: called with a line about what is going on.

    Raises:
        OSError: if the results cannot be written.
        ValueError: if the number of threads is not positive.
    """
    use_threads(config.threads)
    subjects = _build_subjects(config)
    for subject in subjects:
        announce(f"warming up: {subject.name}")
        for _ in range(3):
            subject.call()
    announce(f"timing {len(subjects)} subjects, {config.repetitions} times in turns")
    seconds = time_in_turns(subjects, config.repetitions)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    origin = {"config": config_values(config), "provenance": provenance()}
    rows: list[Row] = []
    for subject in subjects:
        low, _, high = statistics.quantiles(seconds[subject.name], n=4)
        time_s = median[subject.name]
        rate = None if subject.gflop is None else subject.gflop / time_s
        rows.append(
            {
                "subject": subject.name,
                "median_ms": round(1000 * time_s, 4),
                "quartiles_ms": [round(1000 * low, 4), round(1000 * high, 4)],
                "ratio": round(time_s / median[LOSS], 4),
                "gflop": subject.gflop,
                "gflop_per_s": rate,
                "repetitions": config.repetitions,
                **origin,
            }
        )
    write_rows(config.results, rows)


def time_in_turns(subjects: list[Subject], repetitions: int) -> dict[str, list[float]]:
    """Return the times of each subject in seconds, taken in turns."""
    seconds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    order = random.Random(0)
    for _ in range(repetitions):
        for subject in order.sample(subjects, len(subjects)):
            start = time.perf_counter()
            subject.call()
            seconds[subject.name].append(time.perf_counter() - start)
    return seconds


def _build_subjects(config: StepCostConfig) -> list[Subject]:
    # The cost does not depend on the images, so the copy that is always there serves.
    images = load_fashion_mnist("test", source="embedded")
    task = build_task("fashion-cnn", images, config.batch_size)
    batch = task.batches(seed=0).next()
    subjects = [_loss(task, batch), _adam(task, batch)]
    for preset in config.presets:
        subjects.append(_learned(task, batch, preset, compile=False))
        if config.compile:
            subjects.append(_learned(task, batch, preset, compile=True))
    if "paper" in config.presets:
        subjects.append(_paper_forward(task, batch))
    return [*subjects, _product()]


def _model_with_gradients(task: Task, batch: Batch) -> nn.Module:
    """Return a fresh network after one forward and backward pass."""
    model = task.init_model(seed=0)
    task.loss(dict(model.named_parameters()), batch).backward()
    return model


def _loss(task: Task, batch: Batch) -> Subject:
    model = task.init_model(seed=0)

    def call() -> None:
        model.zero_grad()
        task.loss(dict(model.named_parameters()), batch).backward()

    return Subject(name=LOSS, call=call)


def _adam(task: Task, batch: Batch) -> Subject:
    model = _model_with_gradients(task, batch)
    optimizer = torch.optim.Adam(model.parameters())
    return Subject(name="Adam step", call=optimizer.step)


def _learned(task: Task, batch: Batch, preset: str, *, compile: bool) -> Subject:
    model = _model_with_gradients(task, batch)
    rule = Rule(PRESETS[preset])
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    optimizer.step()
    if compile:
        # The first step, without state, would be compiled by itself.
        state = optimizer.state_dict()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule, compile=True)
        optimizer.load_state_dict(state)
    kind = "compiled" if compile else "eager"
    return Subject(name=f"{preset} step, {kind}", call=optimizer.step)


def _paper_forward(task: Task, batch: Batch) -> Subject:
    rule = Rule(PRESETS["paper"])
    params = task.init_params(seed=0)
    graph = neural_graph(params)
    _, grads = task.loss_and_grads(params, batch)
    state = rule.advance(rule.init_state(params), grads)

    @torch.no_grad()
    def call() -> None:
        rule(graph, params, grads, state)

    with FlopCounterMode(display=False) as counter:
        call()
    return Subject(name=FORWARD, call=call, gflop=counter.get_total_flops() / 1e9)


def _product() -> Subject:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(1024, 1024, generator=generator)
    return Subject(name=PRODUCT, call=lambda: matrix @ matrix, gflop=2 * 1.024**3)
