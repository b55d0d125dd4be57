"""Measure time and memory of `neural_graph(model, inputs)` on three full-size networks.

Each repetition is a process of its own, so that nothing is cached and the memory
counted is the trace's.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from l2o import neural_graph
from meta_train.log import write_json_lines
from meta_train.provenance import provenance
from optimizees.resnet import ResNet18
from optimizees.transformer import GPT, ViT

from .checks import check_known, check_repetitions
from .report import NETWORK_COLUMNS, origin_of, rows_report, table_of
from .runs import RESULTS, Row, config_values, use_threads

MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "ResNet-18": lambda: (ResNet18(), torch.randn(2, 3, 224, 224)),
    "ViT-B/16": lambda: (ViT(), torch.randn(2, 3, 224, 224)),
    "GPT-2 small": lambda: (GPT(), torch.randint(50257, (2, 128))),
}
"""Each with two samples: images of 224 x 224 pixels, or 128 tokens."""


ROWS = RESULTS / "trace-cost.jsonl"


@dataclass(frozen=True, kw_only=True)
class TraceCostConfig:
    """What is traced, how often and where."""

    networks: tuple[str, ...] = tuple(MODELS)
    """Which of ResNet-18, ViT-B/16 and GPT-2 small."""
    repetitions: int = 5
    """Processes for each network."""
    threads: int = 1
    """CPU threads."""
    results: Path = ROWS
    """JSON lines file, replaced by each run; `.md` is written with its name."""

    def __post_init__(self) -> None:
        check_known("TraceCostConfig networks", self.networks, MODELS)
        check_repetitions("TraceCostConfig", self.repetitions)


CONFIG = TraceCostConfig()


def run(config: TraceCostConfig, announce: Callable[[str], object]) -> None:
    """Trace every network in fresh processes; write one row each."""
    origin = {"config": config_values(config), "provenance": provenance()}
    rows: list[Row] = []
    for network in config.networks:
        announce(f"{network}: {config.repetitions} processes")
        found = [_in_a_process(network, config) for _ in range(config.repetitions)]
        row: Row = {"network": network, **found[0]}
        for key in ("trace_cpu_s", "forward_cpu_s", "memory_ratio"):
            values = [item[key] for item in found]
            row[key] = round(statistics.median(values), 3)
            row[f"{key} range"] = [round(min(values), 3), round(max(values), 3)]
        rows.append({**row, "repetitions": config.repetitions, **origin})
    write_json_lines(config.results, rows)
    announce(report(config.results))


def _in_a_process(network: str, config: TraceCostConfig) -> Row:
    """Run `measure` in a fresh interpreter."""
    code = (
        "import json; from benchmarks.trace_cost import measure; "
        f"print(json.dumps(measure({network!r}, threads={config.threads})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(
            f"run needs its processes to end well; got {done.returncode} "
            f"for {network}: {done.stderr[-500:]}. Run `measure` yourself to see more."
        )
    return json.loads(done.stdout.splitlines()[-1])


def measure(network: str, *, threads: int = 1) -> Row:
    """Trace a network once, in this process.

    Args:
        network: which of `MODELS`.
        threads: CPU threads.

    Returns:
        Sizes of the graph, CPU seconds of the trace and of a forward pass, and the
        memory that the trace takes at its peak, in parameters' bytes.
    """
    use_threads(threads)
    torch.manual_seed(0)
    model, inputs = MODELS[network]()
    with torch.no_grad():
        start = time.process_time()
        model(inputs)
        forward = time.process_time() - start
    _reset_peak()
    before = _memory("VmRSS")
    start = time.process_time()
    graph = neural_graph(model, inputs)
    seconds = time.process_time() - start
    peak = _memory("VmHWM") - before
    parameters = sum(param.nbytes for param in model.parameters())
    return {
        "num_parameters": graph.num_parameters,
        "groups": len(graph.groups),
        "blocks": len(graph.blocks),
        "placed": round(graph.placed_share, 4),
        "trace_cpu_s": seconds,
        "forward_cpu_s": forward,
        "memory_ratio": peak / parameters,
    }


def _reset_peak() -> None:
    """Reset Linux's record of the peak memory of this process."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    """Return a size of this process in bytes, as Linux reports it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(
        f"measure needs the field {field} in /proc/self/status; got none. Run the "
        "benchmark on Linux."
    )


def _page(rows: list[Row]) -> list[str]:
    """Say what was measured, and how."""
    return [
        "# What a trace costs",
        "`neural_graph(model, inputs)` on two samples (224 x 224 pixels, or 128 "
        "tokens), float32: CPU seconds, compared with one forward pass, and what the "
        "process grows by at its peak, over the bytes of the parameters. Medians of "
        f"{rows[0]['repetitions']} fresh processes.",
        table_of(
            rows,
            {
                **NETWORK_COLUMNS,
                "groups": "{groups}",
                "blocks": "{blocks}",
                "placed": "{placed:.1%}",
                "trace, CPU s": "{trace_cpu_s:.2f}",
                "forward, CPU s": "{forward_cpu_s:.2f}",
                "peak memory / parameters": "{memory_ratio:.2f}",
            },
        ),
        origin_of(rows),
    ]


report = rows_report("l2o benchmark trace-cost", _page)
