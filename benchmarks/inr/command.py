"""`l2o benchmark inr-classification` and `inr-editing`: one row a run."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.runs import RESULTS, Row, use_threads, write_rows
from l2o.companion import stack_networks
from meta_train.log import read_json_lines
from meta_train.provenance import provenance
from optimizees.siren import render_images
from optimizees.zoo.inr_augmentations import AugmentationConfig
from optimizees.zoo.inr_set import InrSet

from .data import DataConfig, Splits, load_splits
from .models import (
    Classifier,
    Editor,
    ModelName,
    Sizes,
    Variant,
    build_classifier,
    build_editor,
    variants,
)
from .tasks import GRAPH, AbstractInrTask, Classification, Editing, Nothing, edit
from .training import Outcome, Run, Say, TrainingConfig, finish

ROWS = RESULTS / "inr.jsonl"

_EXAMPLES = 6
"""Edited images in a row, the first ones of the test set."""


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """Which runs there are, and where they leave what they found."""

    probes: tuple[int, ...] = (0, 64)
    """Numbers of probes that graph networks run with."""
    positions: tuple[bool, ...] = (True,)
    """Whether graph networks have positional embeddings; both for an ablation."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each decides initial weights, batches, augmentation and dropout of a run."""
    threads: int = 1
    """CPU threads."""
    folder: Path = Path("runs/inr/runs")
    """Of the checkpoints."""
    results: Path = ROWS
    """JSON lines file that rows are appended to; rows that are there are kept."""


@dataclass(frozen=True, kw_only=True)
class InrClassificationConfig:
    """Train networks to name the class of the image that a small network stands for.

    Defaults are the paper's. Runs that are there stay, and an interrupted one goes on
    where it was.
    """

    data: DataConfig = field(default_factory=DataConfig)
    """The small networks."""
    models: tuple[ModelName, ...] = (
        *("mlp", "set_nn", "dwsnet"),
        *("nfn", "ng_gnn", "ng_gnn_residual", "ng_t"),
    )
    """Who competes, in order."""
    runs: RunsConfig = field(default_factory=RunsConfig)
    """In which variants, and how often."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How they are trained."""
    with_augmentation: bool = True
    """Whether training networks are moved, made noisy and thinned out."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How much."""
    sizes: Sizes = field(default_factory=Sizes)
    """What graph networks look like."""
    dropout: float = 0.2
    """Share of the channels that are dropped while training."""


@dataclass(frozen=True, kw_only=True)
class InrEditingConfig:
    """Train networks to edit small ones, so that the lines of their images grow.

    Defaults are the paper's. Finished runs are kept; others go on where they were.
    """

    data: DataConfig = field(default_factory=DataConfig)
    """What is edited."""
    models: tuple[ModelName, ...] = (
        *("mlp", "dwsnet", "nfn"),
        *("ng_gnn", "ng_gnn_residual", "ng_t"),
    )
    """Editors, in order; Set NN cannot be one."""
    runs: RunsConfig = field(default_factory=RunsConfig)
    """Their variants and seeds."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(warmup_steps=10_000, clip=1.0)
    )
    """How editors are trained."""
    sizes: Sizes = field(default_factory=lambda: Sizes(width=128))
    """What graph networks look like."""
    dropout: float | None = None
    """Share of the channels that are dropped while training; None for the paper's with
    graph networks and for none with the others."""


InrConfig: TypeAlias = InrClassificationConfig | InrEditingConfig


def run_inr(config: InrConfig, announce: Callable[[str], object]) -> list[Row]:
    """Do what `l2o benchmark inr-classification` or `inr-editing` asks for.

    Args:
        config: the benchmark.
        announce: called with a line about each epoch and each run.

    Returns:
        The rows, one a run.

    Raises:
        FileNotFoundError: if the networks are not there.
        ValueError: if there are too few, or a model cannot do this.
    """
    use_threads(config.runs.threads)
    splits = load_splits(config.data)
    contest = variants(config.models, config.runs.probes, config.runs.positions)
    trials = [(variant, seed) for seed in config.runs.seeds for variant in contest]
    config.runs.results.parent.mkdir(parents=True, exist_ok=True)
    known = read_json_lines(config.runs.results)
    if config.runs.results.is_file():
        write_rows(config.runs.results, known)  # without a line that was cut short
    done = {row["key"]: row for row in known}
    rows = []
    for number, (variant, seed) in enumerate(trials, start=1):
        identity = _identity(config, variant, seed)
        text = json.dumps(identity, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"[{number}/{len(trials)}] {variant.label}, seed {seed}"
        if key in done:
            rows.append(done[key])
            announce(f"{name}: already there")
            continue
        row = {"key": key, **identity}
        row |= _run_trial(config, variant, seed, splits, key, name, announce)
        with config.runs.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
    return rows


def _identity(config: InrConfig, variant: Variant, seed: int) -> dict[str, Any]:
    """Return what tells one run from another."""
    is_editing = isinstance(config, InrEditingConfig)
    training = asdict(config.training)
    del training["save_seconds"]
    augmentation = _augmentation(config)
    return {
        "benchmark": "inr-editing" if is_editing else "inr-classification",
        "data": config.data.name,
        "counts": list(config.data.counts),
        **asdict(variant),
        "seed": seed,
        "training": training,
        "augmentation": None if augmentation is None else asdict(augmentation),
        **asdict(config.sizes),
        "dropout": config.dropout,
    }


def _settings(config: InrConfig) -> dict[str, Any]:
    """Return the configuration as JSON values, without where things lie."""
    values = asdict(config)
    for part, place in (("data", "root"), ("runs", "folder"), ("runs", "results")):
        del values[part][place]
    return values


def _augmentation(config: InrConfig) -> AugmentationConfig | None:
    """Return how training networks are varied, if they are."""
    if isinstance(config, InrEditingConfig) or not config.with_augmentation:
        return None
    return config.augmentation


def _run_trial(
    config: InrConfig,
    variant: Variant,
    seed: int,
    splits: Splits,
    key: str,
    name: str,
    say: Say,
) -> Row:
    """Train and test one network; return what its row says of that."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task, model = _build(config, variant)
    model.fit_statistics(stack_networks(GRAPH, splits.train.networks))
    run = Run(
        task,
        model,
        splits,
        config.training,
        augmentation=_augmentation(config),
        part=variant.part,
        seed=seed,
    )
    outcome = finish(run, config.runs.folder / f"{key}.pt", name, say)
    say(f"{name}: {_summary(outcome)}")
    row = {
        "label": variant.label,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        **_measured(outcome, task),
        "data_source": splits.train.source,
        "config": json.loads(json.dumps(_settings(config))),
        "provenance": provenance(),
    }
    if isinstance(task, Editing):
        row["nothing"] = task.evaluate(Nothing(), splits.test).loss
        if seed == config.runs.seeds[0]:
            row["examples"] = _examples(task, model, splits.test)
    return row


def _build(
    config: InrConfig, variant: Variant
) -> tuple[AbstractInrTask, Classifier | Editor]:
    """Build what one run trains, and for what."""
    if isinstance(config, InrEditingConfig):
        return Editing(), build_editor(variant, config.sizes, dropout=config.dropout)
    return Classification(), build_classifier(
        variant, config.sizes, dropout=config.dropout
    )


def _measured(outcome: Outcome, task: AbstractInrTask) -> Row:
    """Return the numbers of a run, rounded to what is meaningful."""
    best = outcome.epochs[outcome.best_epoch - 1]
    curves = {
        "train_losses": [epoch.train_loss for epoch in outcome.epochs],
        "validation_losses": [epoch.validation.loss for epoch in outcome.epochs],
        "test_losses": [epoch.test_loss for epoch in outcome.epochs],
    }
    return {
        "unit": task.unit,
        "epochs": len(outcome.epochs),
        "best_epoch": outcome.best_epoch,
        "steps": outcome.steps,
        "test_loss": outcome.test.loss,
        "test_accuracy": outcome.test.accuracy,
        "validation_loss": best.validation.loss,
        "validation_accuracy": best.validation.accuracy,
        **{
            name: [float(f"{loss:.5g}") for loss in losses]
            for name, losses in curves.items()
        },
        "seconds": round(sum(epoch.seconds for epoch in outcome.epochs), 1),
        "networks_per_second": float(f"{outcome.networks_per_second:.4g}"),
    }


def _summary(outcome: Outcome) -> str:
    """Say in one line how a run went."""
    test = outcome.test
    accuracy = "" if test.accuracy is None else f", accuracy {test.accuracy:.2%}"
    return (
        f"test loss {test.loss:.5f}{accuracy} after epoch {outcome.best_epoch} of "
        f"{len(outcome.epochs)}, {outcome.networks_per_second:.0f} networks a second"
    )


@torch.no_grad()
def _examples(task: Editing, model: nn.Module, test: InrSet) -> dict[str, list[str]]:
    """Return images before, as edited and as wanted, as text."""
    model.eval()
    few = test.select(slice(0, _EXAMPLES), "the first")
    batch = stack_networks(GRAPH, few.networks)
    images = {
        "input": render_images(few.networks),
        "prediction": render_images(edit(model, batch)),
        "target": task.targets(few),
    }
    return {name: [_encode(image) for image in found] for name, found in images.items()}


def _encode(image: Float[Tensor, "28 28"]) -> str:
    grey = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return base64.b64encode(grey.numpy().tobytes()).decode()


def decode_image(text: str) -> Float[Tensor, "28 28"]:
    """Return an image of a row, grey values in [0, 1]."""
    grey = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
    return grey.view(28, 28) / 255
