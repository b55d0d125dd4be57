"""`l2o benchmark inr-classification` and `inr-editing`: one row per run."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.runs import RESULTS, Row, use_threads
from l2o.companion import (
    FitConfig,
    Fitted,
    NetworkBatch,
    NetworkSet,
    Scores,
    evaluate,
    fit,
    save_companion,
    stack_networks,
)
from meta_train.log import append_json_line, read_json_lines
from meta_train.provenance import provenance
from optimizees.devices import choose_device
from optimizees.siren import render_images
from optimizees.zoo.inr_augmentations import AugmentationConfig, augment
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
from .tasks import CLASSIFICATION, EDITING, GRAPH, InrTask, Nothing, edit

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
    device: str = "cpu"
    """auto, cpu, cuda, mps or another PyTorch device."""
    folder: Path = Path("runs/inr/runs")
    """Of the checkpoints."""
    models: Path | None = None
    """Where trained graph networks are kept as files for `load_companion`, each under
    the key of its row; None keeps none."""
    results: Path = ROWS
    """JSON lines file that rows are appended to; rows that are there are kept."""


@dataclass(frozen=True, kw_only=True)
class InrClassificationConfig:
    """Train networks to name the class of the image that a small network stands for.

    Defaults are the paper's. Runs that are there stay, and an interrupted one continues
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
    training: FitConfig = field(default_factory=FitConfig)
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

    Defaults are the paper's. Finished runs are kept; others continue where they were.
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
    training: FitConfig = field(
        default_factory=lambda: FitConfig(warmup_steps=10_000, clip=1.0)
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
        The rows, one per run.

    Raises:
        FileNotFoundError: if the networks are not there.
        ValueError: if there are too few, a model cannot do this, or the device is not
            there.
    """
    use_threads(config.runs.threads)
    place = choose_device(config.runs.device)
    splits = load_splits(config.data)
    sets = _read_sets(config, splits, place)
    contest = variants(config.models, config.runs.probes, config.runs.positions)
    trials = [(variant, seed) for seed in config.runs.seeds for variant in contest]
    done = {row["key"]: row for row in read_json_lines(config.runs.results)}
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
        row |= _run_trial(config, variant, seed, splits, sets, key, name, announce)
        append_json_line(config.runs.results, row, allow_nan=True)
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
        **({"without_embedded": True} if config.data.without_embedded else {}),
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
    for part, place in (
        *(("data", "root"), ("runs", "folder")),
        *(("runs", "results"), ("runs", "models")),
    ):
        del values[part][place]
    if not config.data.without_embedded:
        del values["data"]["without_embedded"]
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
    sets: Mapping[str, NetworkSet],
    key: str,
    name: str,
    announce: Callable[[str], object],
) -> Row:
    """Train and test one network; return what its row says of that."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(config, variant)
    task = _task_of(config)
    test = sets["test"]
    checkpoint = config.runs.folder / f"{key}.pt"
    try:
        fitted = fit(
            model,
            sets["train"],
            sets["validation"],
            task.objective,
            config.training,
            seed=seed,
            augment=_augment(_augmentation(config)),
            part=variant.part,
            curves={"test": test},
            device=test.targets.device,
            checkpoint=checkpoint,
            report=lambda line: announce(f"{name}: {line}"),
        )
    except KeyboardInterrupt:
        announce(f"{name}: interrupted; the next command continues {checkpoint}")
        raise
    found = evaluate(model, test, task.objective, part=variant.part)
    announce(f"{name}: {_summary(fitted, found)}")
    row = {
        "label": variant.label,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        **_measured(fitted, found, task.unit),
        "data_source": splits.train.source,
        "config": json.loads(json.dumps(_settings(config))),
        "provenance": provenance(),
    }
    if task is EDITING:
        row["nothing"] = evaluate(Nothing(), test, task.objective)["loss"]
        if seed == config.runs.seeds[0]:
            row["examples"] = _examples(model, splits.test)
    if config.runs.models is not None and variant.is_graph_network:
        known = {"key": key, **_identity(config, variant, seed), **row}
        path = config.runs.models / f"{key}.safetensors"
        save_companion(model, path, provenance=known)
    return row


def _augment(
    config: AugmentationConfig | None,
) -> Callable[[NetworkBatch, torch.Generator], NetworkBatch] | None:
    """Return what varies training networks, if something does."""
    if config is None:
        return None

    def varied(batch: NetworkBatch, generator: torch.Generator) -> NetworkBatch:
        params = dict(sorted(batch.params.items()))  # the order of random numbers
        return stack_networks(GRAPH, augment(params, config, generator))

    return varied


def _task_of(config: InrConfig) -> InrTask:
    return EDITING if isinstance(config, InrEditingConfig) else CLASSIFICATION


def _read_sets(
    config: InrConfig, splits: Splits, device: torch.device
) -> dict[str, NetworkSet]:
    """Return the networks of each split with their targets, on a device."""
    read = _task_of(config).read
    return {
        "train": read(splits.train).to(device),
        "validation": read(splits.validation).to(device),
        "test": read(splits.test).to(device),
    }


def _build(config: InrConfig, variant: Variant) -> Classifier | Editor:
    """Build what one run trains."""
    if isinstance(config, InrEditingConfig):
        return build_editor(variant, config.sizes, dropout=config.dropout)
    return build_classifier(variant, config.sizes, dropout=config.dropout)


def _measured(fitted: Fitted, test: Scores, unit: str) -> Row:
    """Return the numbers of a run, rounded to what is meaningful."""
    best = fitted.epochs[fitted.best_epoch - 1].validation
    curves = {
        "train_losses": [epoch.train_loss for epoch in fitted.epochs],
        "validation_losses": [epoch.validation["loss"] for epoch in fitted.epochs],
        "test_losses": [epoch.curves["test"]["loss"] for epoch in fitted.epochs],
    }
    return {
        "unit": unit,
        "epochs": len(fitted.epochs),
        "best_epoch": fitted.best_epoch,
        "steps": fitted.steps,
        "test_loss": test["loss"],
        "test_accuracy": test.get("accuracy"),
        "validation_loss": best["loss"],
        "validation_accuracy": best.get("accuracy"),
        **{
            name: [float(f"{loss:.5g}") for loss in losses]
            for name, losses in curves.items()
        },
        "seconds": round(sum(epoch.seconds for epoch in fitted.epochs), 1),
        "networks_per_second": float(f"{fitted.networks_per_second:.4g}"),
    }


def _summary(fitted: Fitted, test: Scores) -> str:
    """Say in one line how a run went."""
    accuracy = f", accuracy {test['accuracy']:.2%}" if "accuracy" in test else ""
    return (
        f"test loss {test['loss']:.5f}{accuracy} after epoch {fitted.best_epoch} of "
        f"{len(fitted.epochs)}, {fitted.networks_per_second:.0f} networks per second"
    )


@torch.no_grad()
def _examples(model: nn.Module, test: InrSet) -> dict[str, list[str]]:
    """Return images before, as edited and as wanted, as text."""
    model.eval()
    few = test.select(slice(0, _EXAMPLES), "the first")
    place = next(model.parameters()).device
    batch = stack_networks(GRAPH, few.networks).to(place)
    images = {
        "input": render_images(few.networks),
        "prediction": render_images(edit(model, batch)).cpu(),
        "target": EDITING.targets(few),
    }
    return {name: [_encode(image) for image in found] for name, found in images.items()}


def _encode(image: Float[Tensor, "28 28"]) -> str:
    grey = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return base64.b64encode(grey.numpy().tobytes()).decode()


def decode_image(text: str) -> Float[Tensor, "28 28"]:
    """Return an image of a row, grey values in [0, 1]."""
    grey = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
    return grey.view(28, 28) / 255
