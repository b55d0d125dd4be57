"""`l2o benchmark generalization`: predict accuracies from weights."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.runs import RESULTS, Row, use_threads
from l2o.companion import NetworkPredictor, save_companion
from meta_train.log import append_json_line, read_json_lines
from meta_train.provenance import provenance
from optimizees.devices import choose_device

from .data import PopulationName, load_population
from .learning import Learned, LearningConfig, learn
from .predictors import PredictorName

ROWS = RESULTS / "generalization.jsonl"

DIRECTORIES: dict[PopulationName, Path] = {
    "park": Path("runs/park/cifar-10"),
    "zoo": Path("runs/zoo/cifar-10-grey"),
}
PREDICTORS: dict[PopulationName, tuple[PredictorName, ...]] = {
    "park": (
        "stat-nn",
        "stat-nn-long",
        "ng-gnn",
        "ng-t",
        "ng-gnn-no-activations",
        "ng-t-no-activations",
    ),
    "zoo": ("stat-nn", "stat-nn-long", "nfn", "ng-gnn-small", "ng-t-small"),
}
"""What is compared by default; NG-GNN and NG-T in the paper's size for a zoo take hours
of a CPU core."""


@dataclass(frozen=True, kw_only=True)
class GeneralizationConfig:
    """Predict the test accuracy of trained CNNs from their weights.

    Each predictor is trained on some networks, the epoch is chosen on others, and the
    result is measured on yet others, once. Make the networks first, with `l2o data
    wild-park` or `l2o data cnn-zoo`. Stop it at any time: the same command continues.
    """

    population: PopulationName = "park"
    """`park`: CNNs of many architectures. `zoo`: of one."""
    directory: Path | None = None
    """Where they lie; by default where `l2o data` puts them."""
    predictors: tuple[PredictorName, ...] = ()
    """What to compare, in order; empty for all that suit the population."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initial weights, batches and augmentation."""
    checkpoints_per_run: int | None = None
    """Checkpoints of each training run of a park, evenly spread; None for all."""
    order: Path | None = None
    """File with the released order of a published zoo; None for the order of its
    rows."""
    learning: LearningConfig = field(default_factory=LearningConfig)
    """How predictors are trained."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    work: Path = Path("runs/generalization")
    """Where checkpoints of unfinished runs lie."""
    models: Path | None = None
    """Where trained graph networks are kept as files for `load_companion`, each under
    its predictor and seed; None keeps none."""
    results: Path = ROWS
    """JSON lines file that rows are appended to; rows that are there are kept."""


def run_generalization(
    config: GeneralizationConfig, announce: Callable[[str], object]
) -> list[Row]:
    """Train every predictor with every seed and append a row for each.

    Args:
        config: the benchmark.
        announce: called with a line about what is going on.

    Returns:
        The rows of this configuration, in order.

    Raises:
        FileNotFoundError: if there are no networks.
        ValueError: if the device is not there.
        OSError: if the results cannot be written.
    """
    use_threads(config.threads)
    place = choose_device(config.device)
    directory = config.directory or DIRECTORIES[config.population]
    population = load_population(
        config.population,
        directory,
        checkpoints_per_run=config.checkpoints_per_run,
        order=config.order,
    ).to(place)
    names = config.predictors or PREDICTORS[config.population]
    rows = []
    for seed in config.seeds:
        for name in names:
            identity = _identity(name, seed, config, population.facts)
            known = read_json_lines(config.results)
            found = [row for row in known if _key(row) == _key(identity)]
            title = f"{config.population}, {name}, seed {seed}"
            if found:
                announce(f"{title}: already there")
                rows.append(found[-1])
                continue
            checkpoint = config.work / f"{_key(identity)}.pt"
            start = time.process_time()
            learned = learn(
                name,
                population,
                config.learning,
                seed=seed,
                checkpoint=checkpoint,
                announce=lambda line, title=title: announce(f"{title}, {line}"),
            )
            row = {
                **identity,
                **_outcome(learned, with_predictions=seed == config.seeds[0]),
                "device": str(place),
                "cpu_seconds": round(time.process_time() - start, 1),
                "provenance": provenance(),
            }
            append_json_line(config.results, row)
            if config.models is not None and isinstance(
                learned.model, NetworkPredictor
            ):
                kept = {name: row[name] for name in row if name != "pairs"}
                path = config.models / f"{name}-{seed}.safetensors"
                save_companion(learned.model, path, provenance=kept)
            checkpoint.unlink(missing_ok=True)
            announce(
                f"{title}: Kendall's tau {row['tau']:.3f}, R^2 {row['r2']:.3f} on "
                f"{len(learned.true)} test networks, epoch {row['best_epoch']}"
            )
            rows.append(row)
    return rows


_KEY = ("population", "predictor", "seed", "learning", "networks")


def _identity(
    name: PredictorName, seed: int, config: GeneralizationConfig, facts: Row
) -> Row:
    """Return what tells one row from another."""
    learning = asdict(config.learning)
    if name == "stat-nn-long":
        del learning["epochs"]
    else:
        del learning["long_epochs"], learning["patience"]
    return {
        "population": config.population,
        "predictor": name,
        "seed": seed,
        "learning": learning,
        "networks": facts,
    }


def _key(row: Row) -> str:
    """Return a short name of what tells a row from others."""
    text = json.dumps([row.get(name) for name in _KEY], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _outcome(learned: Learned, *, with_predictions: bool) -> Row:
    """Return what a row says of a run, rounded to what is meaningful."""
    values = asdict(replace(learned, model=None))
    del values["model"]
    history = [
        {name: round(value, 4) for name, value in epoch.items()}
        for epoch in values.pop("history")
    ]
    pairs = [
        [round(predicted, 4), round(true, 4)]
        for predicted, true in zip(
            values.pop("predicted"), values.pop("true"), strict=True
        )
    ]
    values |= {"tau": round(learned.tau, 4), "r2": round(learned.r2, 4)}
    values |= {"num_tested": len(pairs), "history": history}
    return values | ({"pairs": pairs} if with_predictions else {})
