"""Train a network on trained networks: selected on validation, exactly resumable."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from l2o.files import read_state, write_state

from .fit_config import FitConfig, Fitted
from .network_set import NetworkSet
from .objectives import AbstractObjective
from .training_run import Augment, TrainingRun

Report: TypeAlias = Callable[[str], object]


def fit(
    model: nn.Module,
    train: NetworkSet,
    validation: NetworkSet,
    objective: AbstractObjective,
    config: FitConfig | None = None,
    *,
    seed: int = 0,
    augment: Augment | None = None,
    part: int | None = None,
    one_architecture: bool = False,
    piece: int = 1,
    standardise: bool = True,
    curves: Mapping[str, NetworkSet] | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    report: Report | None = None,
    progress: bool = False,
) -> Fitted:
    """Train a model, select the epoch on validation and leave its weights in the model.

    The same seed gives the same numbers, whether a run is interrupted or not. Torch's
    own generators stay as they are.

    Args:
        model: a `NetworkClassifier`, `NetworkPredictor`, `NetworkEditor`, a baseline,
            or any module that takes a `NetworkBatch`; freshly initialised.
        train: the networks to learn from.
        validation: the networks to select the epoch on.
        objective: the loss and the score that selects.
        config: how long and how fast; None for the defaults.
        seed: decides batches, augmentation and dropout.
        augment: varies the networks of a training batch; None for none.
        part: networks to differentiate at a time; the gradients of a batch are their
            sum. None for whole batches, as a model needs that couples networks.
        one_architecture: whether a part holds one architecture only, which saves NG-T
            the padding.
        piece: networks of one architecture that stay together in a batch.
        standardise: whether the model's `fit_statistics`, if it has one, reads the
            training networks first.
        curves: further sets to evaluate after every epoch, by name.
        device: where to train, such as "cuda"; None for where the model is.
        checkpoint: file to write now and then, and to continue from; it stays.
        report: called with one line per epoch.
        progress: whether to show a bar of the steps (needs tqdm).

    Returns:
        The run.

    Raises:
        ImportError: if a bar is wanted and tqdm is missing.
        ValueError: if the checkpoint is damaged or of another run.

    Example:
        >>> from l2o.companion import NetworkClassifier, inr_classifier
        >>> from l2o.companion import layered_graph, stack_networks
        >>> graph = layered_graph({"a": (32, 2), "b": (32, 32), "c": (1, 32)})
        >>> params = {name: torch.randn(8, *s) for name, s in graph.shapes.items()}
        >>> data = NetworkSet(stack_networks(graph, params), torch.arange(8) % 2)
        >>> model = NetworkClassifier(inr_classifier("ng_gnn", width=8), num_classes=2)
        >>> from l2o.companion import Classification
        >>> fitted = fit(model, data, data, Classification(), FitConfig(epochs=2))
        >>> len(fitted.epochs), sorted(fitted.epochs[0].validation)
        (2, ['accuracy', 'loss', 'score'])
    """
    config = FitConfig() if config is None else config
    if device is not None:
        model.to(device)
    place = next(model.parameters()).device
    train, validation = train.to(place), validation.to(place)
    moved = {name: data.to(place) for name, data in (curves or {}).items()}
    if standardise and callable(read := getattr(model, "fit_statistics", None)):
        read(train.networks)
    run = TrainingRun(
        model,
        train,
        validation,
        objective,
        config,
        seed=seed,
        augment=augment,
        part=part,
        one_architecture=one_architecture,
        piece=piece,
        curves=moved,
    )
    path = None if checkpoint is None else Path(checkpoint)
    with _bar(progress, run) as advance:
        return _finish(run, path, report or (lambda _: None), advance)


def _finish(
    run: TrainingRun,
    checkpoint: Path | None,
    report: Report,
    advance: Callable[[], object],
) -> Fitted:
    """Train to the end; continue from a checkpoint if there is one."""
    if checkpoint is not None and checkpoint.is_file():
        try:
            run.restore(read_state(checkpoint))
        except (ValueError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"fit continues a whole checkpoint of the same run; got {checkpoint}: "
                f"{error}. Delete it to start again."
            ) from error
        report(f"continues after {run.steps:,} steps")
    saved = time.perf_counter()
    while not run.is_over:
        run.step()
        advance()
        if not run.batches:
            report(_line(run))
        is_due = time.perf_counter() - saved >= run.config.save_seconds
        if checkpoint is not None and is_due:
            write_state(checkpoint, run.state())
            saved = time.perf_counter()
    if checkpoint is not None:
        write_state(checkpoint, run.state())
    return run.outcome()


def _line(run: TrainingRun) -> str:
    """Return what happened in the last epoch, as one line."""
    last = run.history[-1]
    scores = {name: x for name, x in last["validation"].items() if name != "score"}
    listed = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    return (
        f"epoch {len(run.history)}: training loss {last['train_loss']:.4f}, "
        f"validation {listed}, {last['seconds']:.1f} s"
    )


@contextlib.contextmanager
def _bar(is_shown: bool, run: TrainingRun) -> Iterator[Callable[[], object]]:
    """Yield a function to call after each step."""
    if not is_shown:
        yield lambda: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "fit(progress=True) needs tqdm; it is not installed. Install l2o[train], "
            "or pass progress=False."
        ) from error
    count = math.ceil(len(run.train) / run.config.batch_size)
    with tqdm(total=run.config.epochs * count, unit="step") as bar:

        def advance() -> None:
            bar.update(run.steps - bar.n)

        yield advance
