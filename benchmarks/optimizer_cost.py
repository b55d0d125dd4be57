"""Measure state, construction and first step of an optimizer, compared with Adam's.

Optimizers are built again each time, in turns and in random order, so that other load
on the machine affects all alike.
"""

import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from l2o import NeuralGraphOpt
from meta_train.log import write_json_lines
from meta_train.provenance import provenance
from optimizees import MLP, fashion_cnn

from .checks import check_repetitions
from .report import NETWORK_COLUMNS, origin_of, rows_report, table_of
from .runs import RESULTS, Row, config_values, use_threads

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "FashionMNIST CNN": fashion_cnn,
    "MLP of 784-128-128-10": lambda: MLP((784, 128, 128, 10)),
    "MLP of 24 layers": lambda: MLP((32,) * 25),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


ROWS = RESULTS / "optimizer-cost.jsonl"


@dataclass(frozen=True, kw_only=True)
class OptimizerCostConfig:
    """What is built, how often and where."""

    rules: tuple[str, ...] = ("ff", "ng-gnn", "ng-gnn-neurons", "ng-t")
    """Shipped rules, or paths of rule files."""
    repetitions: int = 9
    """Times that each is built."""
    threads: int = 1
    """CPU threads."""
    results: Path = ROWS
    """JSON lines file, replaced by each run; `.md` is written with its name."""

    def __post_init__(self) -> None:
        check_repetitions("OptimizerCostConfig", self.repetitions, least=2)


CONFIG = OptimizerCostConfig()


@dataclass(frozen=True, kw_only=True)
class Life:
    """Construction and first steps of one optimizer."""

    num_parameters: int
    """Entries of the network."""
    state_floats: float
    """Floating-point numbers of state per parameter entry, without step counts."""
    state_bytes: float
    """Bytes of state per parameter entry, with step counts."""
    seconds: dict[str, float]
    """CPU time of `construction`, `first step` and `second step`."""


def run(config: OptimizerCostConfig, announce: Callable[[str], object]) -> None:
    """Measure state, construction and first steps; write one row each."""
    use_threads(config.threads)
    subjects = [
        (network, dtype, optimizer)
        for network in NETWORKS
        for dtype in DTYPES
        for optimizer in ("Adam", *config.rules)
    ]
    lives: dict[tuple[str, str, str], list[Life]] = {item: [] for item in subjects}
    order = random.Random(0)
    for turn in range(config.repetitions + 1):
        announce(f"turn {turn} of {config.repetitions}" if turn else "warming up")
        for subject in order.sample(subjects, len(subjects)):
            life = live(*subject)
            if turn:
                lives[subject].append(life)
    origin = {
        "load_average": round(os.getloadavg()[0], 1),
        "config": config_values(config),
        "provenance": provenance(),
    }
    rows: list[Row] = []
    for (network, dtype, optimizer), found in lives.items():
        row: Row = {
            "network": network,
            "dtype": dtype,
            "optimizer": optimizer,
            "num_parameters": found[0].num_parameters,
            "state_floats": round(found[0].state_floats, 3),
            "state_bytes": round(found[0].state_bytes, 3),
        }
        for part in found[0].seconds:
            times = [1000 * life.seconds[part] for life in found]
            low, middle, high = statistics.quantiles(times, n=4)
            row[f"{part} ms"] = round(middle, 3)
            row[f"{part} quartiles_ms"] = [round(low, 3), round(high, 3)]
        rows.append({**row, "repetitions": config.repetitions, **origin})
    write_json_lines(config.results, rows)
    announce(report(config.results))


def live(network: str, dtype: str, optimizer: str) -> Life:
    """Build a network and its optimizer, and take two steps.

    Args:
        network: which of `NETWORKS`.
        dtype: which of `DTYPES` the parameters have.
        optimizer: "Adam", or the rule of a `NeuralGraphOpt`.
    """
    model = NETWORKS[network]().to(DTYPES[dtype])
    for param in model.parameters():
        param.grad = torch.full_like(param, 0.01)
    seconds: dict[str, float] = {}
    start = time.process_time()
    built: Optimizer
    if optimizer == "Adam":
        built = torch.optim.Adam(model.parameters())
    else:
        built = NeuralGraphOpt(model.parameters(), rule=optimizer)
    seconds["construction"] = time.process_time() - start
    for part in ("first step", "second step"):
        start = time.process_time()
        built.step()
        seconds[part] = time.process_time() - start
    size = sum(param.numel() for param in model.parameters())
    tensors = [value for item in built.state.values() for value in item.values()]
    return Life(
        num_parameters=size,
        state_floats=sum(value.numel() for value in tensors if value.ndim) / size,
        state_bytes=sum(value.nbytes for value in tensors) / size,
        seconds=seconds,
    )


def _page(rows: list[Row]) -> list[str]:
    """Say what was measured, and how."""
    columns = {
        **NETWORK_COLUMNS,
        "dtype": "{dtype}",
        "optimizer": "{optimizer}",
        "floats": "{state_floats:.2f}",
        "bytes": "{state_bytes:.2f}",
    }
    parts = ("construction", "first step", "second step")
    columns |= {f"{part} ms": f"{{{part} ms:.1f}}" for part in parts}
    return [
        "# What an optimizer costs apart from its steps",
        "Floats and bytes of state per parameter, and medians of "
        f"{rows[0]['repetitions']} CPU times in turns.",
        table_of(rows, columns),
        f"{origin_of(rows)} Load average at the end: "
        f"{rows[0]['load_average']}; other programs share the caches, not CPU time.",
        "The state of ff, ng-gnn and ng-t is five averages of the gradient and one of "
        "its square, that of ng-gnn-neurons two and one, in float32 whatever the "
        "parameters are; Adam keeps two averages in the "
        "parameters' own precision. Construction of a NeuralGraphOpt reads the rule's "
        "file and finds the graph.",
    ]


report = rows_report("l2o benchmark optimizer-cost", _page)
