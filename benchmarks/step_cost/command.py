"""`l2o benchmark step-cost`: every subject on every network, one row each."""

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.runs import RESULTS, Row
from meta_train.log import read_json_lines, write_json_lines
from meta_train.provenance import provenance
from optimizees.devices import choose_device

from .cell import Cell, MatmulPrecision, run_cell
from .memory import available_memory
from .networks import NETWORKS, NetworkName
from .subjects import SubjectName

_STEPS: tuple[SubjectName, ...] = (
    "forward-backward",
    "adam-foreach",
    "adam-fused",
    "small-fc",
    "muon",
    "muon-float32",
    "default-ff",
    "neurons",
    "default",
)
_MORE: tuple[SubjectName, ...] = (
    "default-pyg",
    "default-ff-compiled",
    "default-compiled",
    "paper-ff",
    "paper-lstm",
    "paper-nfn",
    "paper",
    "paper-ng-t",
    "paper-forward",
)


ROWS = RESULTS / "step-cost.jsonl"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How each subject is measured, in a process of its own."""

    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    threads: int = 1
    """CPU threads."""
    repeats: int = 30
    """Most times that each is timed."""
    seconds: float = 5.0
    """Time after which a subject is not repeated again."""
    limit_s: float = 480.0
    """Time after which a process is stopped; its row says so."""
    matmul_precision: MatmulPrecision = "highest"
    """What `torch.set_float32_matmul_precision` is told, for all that is timed and for
    the plain product for comparison."""
    memory_gb: float | None = None
    """What a process may allocate on a CPU, in 1e9 bytes; None for nine tenths of what
    is free."""

    def __post_init__(self) -> None:
        wrong = {
            name: value
            for name, value in asdict(self).items()
            if isinstance(value, int | float) and not value > 0
        }
        if wrong:
            raise ValueError(
                f"Measurement settings must be above zero; got {wrong}. Leave them out "
                "for the defaults."
            )


@dataclass(frozen=True, kw_only=True)
class StepCostConfig:
    """Measure the cost of a step, compared with forward and backward and with Adam.

    Each pair of network and subject runs in a process of its own, so that its memory
    can be measured and its failure ends nothing else. Rows of the same commit and
    settings are kept: an interrupted run continues, unless Python files differ from
    the commit.
    """

    models: tuple[NetworkName, ...] = NETWORKS[:8]
    """Networks to train."""
    subjects: tuple[SubjectName, ...] | None = None
    """What to time; None for what suits each network: everything on the paper's
    FashionMNIST network, PyTorch Geometric up to ResNet-18."""
    measure: Measurement = Measurement()
    """How."""
    results: Path = ROWS
    """JSON lines file."""


CONFIG = StepCostConfig()


def run(config: StepCostConfig, announce: Callable[[str], object]) -> None:
    """Measure every pair that has no row yet; write one row each."""
    pairs: list[tuple[NetworkName, SubjectName]] = [
        (network, subject)
        for network in config.models
        for subject in config.subjects or suitable(network)
    ]
    measure_pairs(pairs, config.measure, config.results, announce)


def suitable(network: NetworkName) -> tuple[SubjectName, ...]:
    """Return what is worth timing on a network, where time is short."""
    match network:
        case "fashion-cnn":
            return (*_STEPS, *_MORE)
        case "cifar-cnn" | "mlp-1m" | "resnet-18":
            return (*_STEPS, "default-pyg")
        case "mlp-100m":
            return ("forward-backward", "adam-fused", "default")
        case _:
            return _STEPS


def measure_pairs(
    pairs: Iterable[tuple[NetworkName, SubjectName]],
    measurement: Measurement,
    results: Path,
    announce: Callable[[str], object],
    known: Iterable[Path] = (),
) -> list[Row]:
    """Measure each pair that has no row yet; write the rows.

    Args:
        pairs: networks and subjects.
        measurement: how.
        results: the JSON lines file; rows of other commits or settings are dropped.
        announce: called with one line for each pair.
        known: results of other benchmarks; a row that answers a pair is copied.

    Returns:
        The rows of the pairs, in their order.

    Raises:
        ValueError: if the device is not there.
    """
    place = choose_device(measurement.device)
    measurement = replace(measurement, device=str(place))
    origin = {**provenance(), "commit": code_version()}
    origin["machine"]["threads"] = measurement.threads
    settings = asdict(measurement)
    rows = _current(results, settings, origin["commit"])
    elsewhere = _current_of(known, settings, origin["commit"])
    todo = list(pairs)
    for index, (network, subject) in enumerate(todo, start=1):
        name = f"[{index}/{len(todo)}] {network}, {subject}"
        if (network, subject) in rows:
            announce(f"{name}: already there")
            continue
        if (network, subject) in elsewhere:
            announce(f"{name}: copied")
            row = elsewhere[network, subject]
        else:
            outcome = run_cell(
                _cell(network, subject, measurement), measurement.limit_s
            )
            announce(f"{name}: {_summary(outcome)}")
            row = {
                "network": network,
                "subject": subject,
                **outcome,
                "settings": settings,
                "provenance": origin,
            }
        rows[network, subject] = row
        results.parent.mkdir(parents=True, exist_ok=True)
        write_json_lines(results, rows.values())
    return [rows[pair] for pair in todo]


def _cell(network: NetworkName, subject: SubjectName, measurement: Measurement) -> Cell:
    free = available_memory()
    given = measurement.memory_gb
    if given is not None:
        memory = int(1e9 * given)
    else:
        memory = None if free is None else int(0.9 * free)
    return Cell(
        network=network,
        subject=subject,
        device=measurement.device,
        threads=measurement.threads,
        repetitions=measurement.repeats,
        seconds=measurement.seconds,
        memory_bytes=memory,
        matmul_precision=measurement.matmul_precision,
    )


def known_pairs(
    measurement: Measurement, known: Iterable[Path]
) -> set[tuple[str, str]]:
    """Return the pairs that this commit has measured in this way already."""
    return set(_current_of(known, asdict(measurement), code_version()))


def _current_of(
    files: Iterable[Path], settings: dict[str, Any], commit: str
) -> dict[tuple[str, str], Row]:
    found: dict[tuple[str, str], Row] = {}
    for path in files:
        found.update(_current(path, settings, commit))
    return found


def _current(
    results: Path, settings: dict[str, Any], commit: str
) -> dict[tuple[str, str], Row]:
    """Return the rows that this commit made with these settings, by pair."""
    if not commit.isalnum():
        return {}  # the files they came from are unknown
    return {
        (row["network"], row["subject"]): row
        for row in read_json_lines(results)
        if row.get("settings") == settings and row["provenance"]["commit"] == commit
    }


def code_version() -> str:
    """Return the commit, with "-dirty" behind it if Python files differ from it.

    Results may differ: a run changes them itself, and continues all the same.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        differs = git("diff", "--quiet", "HEAD", "--", ":(top)*.py").returncode
    except OSError:
        return "unknown (no git)"
    if head.returncode:
        return "unknown (no git checkout)"
    return head.stdout.strip() + ("-dirty" if differs else "")


def _summary(outcome: Row) -> str:
    """Say in one line how a measurement went."""
    if outcome["status"] != "measured":
        return outcome["status"]
    peak = outcome["peak_bytes"]
    memory = "" if peak is None else f", {peak / 2**20:,.0f} MiB"
    return (
        f"{outcome['median_ms']:,.2f} ms ({outcome['repetitions']} times){memory}, a "
        f"product {outcome['product_gflop_per_s']:,.0f} GFLOP/s"
    )
