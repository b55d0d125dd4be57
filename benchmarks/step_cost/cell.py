"""One cell of the table: one subject on one network, in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.protocol import now
from benchmarks.runs import use_threads
from optimizees.devices import choose_device

from .memory import is_out_of_memory, limit_memory, peak_memory
from .networks import NetworkName, build_network
from .subjects import COMPILED, GRADIENTS, RULES, SubjectName, prepare, rule_gflop
from .turns import Subject, time_in_turns

OUT_OF_MEMORY = "out of memory"
OUT_OF_TIME = "out of time"

MatmulPrecision: TypeAlias = Literal["highest", "high", "medium"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What to measure, and within which limits."""

    network: NetworkName
    """Which network."""
    subject: SubjectName
    """What is timed on it."""
    device: str
    """"cpu" or "cuda"."""
    threads: int
    """CPU threads."""
    repetitions: int
    """Most times that it is timed."""
    seconds: float
    """Time after which it is not repeated again."""
    memory_bytes: int | None
    """What it may allocate on a CPU; None for no limit."""
    matmul_precision: MatmulPrecision = "highest"
    """How much precision products in float32 may give up for speed."""


def measure(cell: Cell) -> dict[str, Any]:
    """Measure in this process; return what the row says of the outcome.

    A first call warms up: it makes the state and compiles. If it alone takes longer
    than `cell.seconds`, it is what counts. Every repetition alternates with a plain
    matrix product, which tells how fast the machine was at that time.

    Raises:
        ValueError: if the device is not there.
    """
    device = choose_device(cell.device)
    use_threads(cell.threads)
    torch.set_float32_matmul_precision(cell.matmul_precision)
    network = build_network(cell.network, device, GRADIENTS.get(cell.subject))
    if cell.memory_bytes is not None and device.type == "cpu":
        limit_memory(cell.memory_bytes)
    start = time.perf_counter()
    prepared = prepare(cell.subject, network)
    prepared_s = time.perf_counter() - start
    call = _finished(prepared.call, device)
    product = plain_product(device)
    for _ in range(3):
        product.call()
    subject = Subject(name=cell.subject, call=call)
    # Of one thread the CPU time is the time, and other programs do not count.
    is_alone = device.type == "cpu" and cell.threads == 1
    clock = time.process_time if is_alone else time.perf_counter
    times: list[float] = []

    def once() -> None:
        times.extend(time_in_turns([subject], 1, clock)[subject.name])

    before = _state_bytes(prepared.optimizer)
    peak = peak_memory(once, device)
    if peak is not None:
        peak -= _state_bytes(prepared.optimizer) - before
    first_s = times[0]
    if cell.subject in COMPILED:
        for _ in range(2):  # the second call may compile again
            call()
    products = time_in_turns([product], 5, clock)[product.name]
    if first_s < cell.seconds or cell.subject in COMPILED:
        times.clear()
        peak = peak_memory(once, device)
        more = min(cell.repetitions, int(cell.seconds / times[0])) - 1
        found = time_in_turns([subject, product], max(more, 0), clock)
        times += found[subject.name]
        products += found[product.name]
    gflop = None
    if cell.subject in RULES and prepared.graph is not None:
        gflop = rule_gflop(cell.subject, network, prepared.graph)
    elif cell.subject not in COMPILED and first_s < cell.seconds / 4:
        with FlopCounterMode(display=False) as counter:
            call()
        gflop = counter.get_total_flops() / 1e9
    assert product.gflop is not None
    return {
        "status": "measured",
        "batch": network.batch,
        "num_parameters": network.num_parameters,
        "placed_share": None if prepared.graph is None else prepared.graph.placed_share,
        "prepare_ms": 1000 * prepared_s,
        "first_ms": 1000 * first_s,
        "median_ms": 1000 * statistics.median(times),
        "quartiles_ms": _quartiles_ms(times),
        "repetitions": len(times),
        "peak_bytes": peak,
        "state_floats": _state_floats(prepared.optimizer) / network.num_parameters,
        "gflop": gflop,
        "product_gflop_per_s": product.gflop / statistics.median(products),
    }


def run_cell(cell: Cell, limit_s: float) -> dict[str, Any]:
    """Measure in a fresh process; say so where that fails, instead of failing.

    Args:
        cell: what to measure.
        limit_s: seconds that the process may take.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.step_cost", json.dumps(asdict(cell))],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**os.environ, "OMP_NUM_THREADS": str(cell.threads)},
        )
    except subprocess.TimeoutExpired:
        return {"status": OUT_OF_TIME, "limit_s": limit_s}
    if done.returncode == -9:  # killed, as Linux does when memory runs out
        return {"status": OUT_OF_MEMORY}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"status": f"failed: {lines[-1] if lines else done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def main(text: str) -> str:
    """Measure the cell that a JSON object describes; return the outcome as JSON."""
    cell = Cell(**json.loads(text))
    try:
        return json.dumps(measure(cell))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return json.dumps({"status": OUT_OF_MEMORY})


def plain_product(device: torch.device) -> Subject:
    """Return a matrix product in float32, large enough for the device's best speed."""
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    matrix = matrix.to(device)
    call = _finished(lambda: matrix @ matrix, device)
    return Subject(name="product", call=call, gflop=2 * size**3 / 1e9)


def _finished(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return a call that ends only when the device has."""

    def whole() -> None:
        call()
        now(device)

    return whole


def _quartiles_ms(times: list[float]) -> list[float] | None:
    if len(times) < 2:
        return None
    low, _, high = statistics.quantiles(times, n=4)
    return [1000 * low, 1000 * high]


def _tensors(optimizer: Optimizer | None) -> list[torch.Tensor]:
    if optimizer is None:
        return []
    items = [value for item in optimizer.state.values() for value in item.values()]
    return [item for item in items if isinstance(item, torch.Tensor) and item.ndim]


def _state_floats(optimizer: Optimizer | None) -> int:
    return sum(tensor.numel() for tensor in _tensors(optimizer))


def _state_bytes(optimizer: Optimizer | None) -> int:
    return sum(tensor.nbytes for tensor in _tensors(optimizer))
