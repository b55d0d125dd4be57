"""Train a network on trained networks: selected on validation, exactly resumable."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from l2o.config import check_not_negative, check_positive, config_values, frozen_config
from l2o.files import read_state, write_state
from l2o.schedules import cosine_factor

from .batch import NetworkBatch
from .network_set import NetworkSet
from .objectives import AbstractObjective, Scores
from .running_norm import one_batch

Augment: TypeAlias = Callable[[NetworkBatch, torch.Generator], NetworkBatch]
"""Returns varied training networks; draws from the given generator, on the CPU."""
Report: TypeAlias = Callable[[str], object]

EVALUATED = 100
"""Networks that are evaluated at a time where `part` does not say."""


@frozen_config
class FitConfig:
    """How a network is trained; the defaults are the paper's for classification."""

    epochs: int = 200
    """Most passes over the training set."""
    seconds: float | None = None
    """Most seconds of training; the last epoch that fits is finished. None for any."""
    patience: int | None = None
    """Epochs without a better validation score after which to stop; None never stops.
    The weights of the best epoch are kept in any case."""
    batch_size: int = 128
    """Networks per step."""
    lr: float = 1e-3
    """Step size of AdamW with AMSGrad."""
    weight_decay: float = 5e-4
    """Of AdamW."""
    warmup_steps: int = 1000
    """Steps over which the step size rises linearly from 0."""
    decay: Literal["none", "cosine"] = "none"
    """Whether the step size then falls to 0 along half a cosine, over all epochs; a run
    that `seconds` or `patience` ends does not get that far."""
    clip: float = 10.0
    """Largest norm of the gradient."""
    save_seconds: float = 60.0
    """Seconds between two checkpoints: what an interrupt loses."""

    def __post_init__(self) -> None:
        check_positive(
            "FitConfig",
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            clip=self.clip,
            patience=1 if self.patience is None else self.patience,
            seconds=1.0 if self.seconds is None else self.seconds,
        )
        check_not_negative(
            "FitConfig",
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            save_seconds=self.save_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training set."""

    train_loss: float
    """Mean loss while training, with dropout and augmentation."""
    validation: Scores
    """On the networks that select."""
    curves: dict[str, Scores]
    """On further sets, by name; they decide nothing."""
    seconds: float
    """Time of the training steps."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A finished run; the model has the weights of the best epoch."""

    epochs: tuple[Epoch, ...]
    """One per pass."""
    best_epoch: int
    """The pass with the best validation score, counted from 1; the first of equals."""
    steps: int
    """Updates in all."""
    network_passes: int
    """Training networks that were shown, counted as often as they were."""

    @property
    def networks_per_second(self) -> float:
        """Networks per second of training, on average."""
        return self.network_passes / sum(epoch.seconds for epoch in self.epochs)


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
    run = _Run(
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


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: NetworkSet,
    objective: AbstractObjective,
    *,
    part: int | None = None,
    one_architecture: bool = False,
) -> Scores:
    """Return the scores of a model on a set, without dropout and augmentation.

    Args:
        model: what is measured; its mode stays as it is.
        data: the networks, on the model's device.
        objective: what is measured.
        part: networks to compute at a time; None for 100.
        one_architecture: whether a part holds one architecture only.

    Returns:
        Measures by name; `score` is what `fit` selects by.
    """
    was_training = model.training
    model.eval()
    size = EVALUATED if part is None else part
    found = objective.scores(model, data.split(size, one_architecture=one_architecture))
    model.train(was_training)
    return found


class _Run:
    """A model in training; all that changes can be saved and restored."""

    def __init__(
        self,
        model: nn.Module,
        train: NetworkSet,
        validation: NetworkSet,
        objective: AbstractObjective,
        config: FitConfig,
        *,
        seed: int,
        augment: Augment | None,
        part: int | None,
        one_architecture: bool,
        piece: int,
        curves: Mapping[str, NetworkSet],
    ) -> None:
        self.model, self.objective, self.config = model, objective, config
        self.train, self.validation, self.curves = train, validation, curves
        self.augment, self.part, self.piece = augment, part, piece
        self.one_architecture = one_architecture
        self.device = train.networks.like.device
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            amsgrad=True,
        )
        self.generator = torch.Generator().manual_seed(seed)
        with self._own_noise():
            torch.manual_seed(seed + 1_000_003)
            self.noise = self._noise_state()
        self.identity = _identity(config, seed, len(train), part, piece)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.batches: list[Tensor] = []
        self.taken = 0
        self.steps = 0
        self.shown = 0
        self.loss_sum = 0.0
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        """Return all that changes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            ValueError: if it is of a run with other settings.
        """
        found = state.get("identity")
        if found != self.identity:
            raise ValueError(f"settings {found} instead of {self.identity}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        for name in _PLAIN:
            setattr(self, name, state[name])

    def step(self) -> None:
        """Take the next batch; the last one of an epoch ends it."""
        started = time.perf_counter()
        if not self.batches:
            self.batches = self.train.shuffled(
                self.config.batch_size, self.generator, piece=self.piece
            )
        chosen = self.batches[self.taken]
        with self._own_noise():
            self._set_noise_state(self.noise)
            self.loss_sum += self._update(self.train[chosen])
            self.noise = self._noise_state()
        self.taken += 1
        self.steps += 1
        self.shown += len(chosen)
        self.seconds += time.perf_counter() - started
        if self.taken == len(self.batches):
            self._end_epoch()

    def _update(self, batch: NetworkSet) -> float:
        """Make one step of the optimizer; return the sum of the losses."""
        if self.augment is not None:
            varied = self.augment(batch.networks, self.generator)
            batch = NetworkSet(varied, batch.targets)
        self.model.train()
        self.optimizer.zero_grad()
        total, count = 0.0, len(batch)
        with one_batch(self.model):
            parts = batch.split(
                count if self.part is None else self.part,
                one_architecture=self.one_architecture,
            )
            for part in parts:
                losses = self.objective.losses(self.model, part.networks, part.targets)
                (losses.sum() / count).backward()
                total += float(losses.detach().sum())
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self._share_of_lr()
        self.optimizer.step()
        return total

    def _share_of_lr(self) -> float:
        """Return the factor of the next step's size."""
        config = self.config
        if config.decay == "none":
            return min(1.0, (self.steps + 1) / max(1, config.warmup_steps))
        count = len(self.batches)
        done = len(self.history) * count + self.taken
        return cosine_factor(
            done, config.epochs * count, warmup_steps=config.warmup_steps
        )

    def _evaluate(self, data: NetworkSet) -> Scores:
        return evaluate(
            self.model,
            data,
            self.objective,
            part=self.part,
            one_architecture=self.one_architecture,
        )

    def _end_epoch(self) -> None:
        """Evaluate, and keep the weights if they are the best."""
        found = {
            "train_loss": self.loss_sum / len(self.train),
            "validation": self._evaluate(self.validation),
            "curves": {n: self._evaluate(data) for n, data in self.curves.items()},
            "seconds": self.seconds,
        }
        self.history.append(found)
        if self.best_epoch == len(self.history):
            state = self.model.state_dict()
            self.best = {name: weight.clone() for name, weight in state.items()}
        self.batches, self.taken = [], 0
        self.loss_sum, self.seconds = 0.0, 0.0

    @property
    def best_epoch(self) -> int:
        """The pass with the best validation score; of equal ones the first."""
        scores = [_comparable(item["validation"]["score"]) for item in self.history]
        return 1 + scores.index(max(scores))

    @property
    def is_over(self) -> bool:
        """Whether the epochs, the time or the patience are used up."""
        if self.batches or not self.history:
            return False
        config = self.config
        times = [item["seconds"] for item in self.history]
        has_time = config.seconds is None or sum(times) + times[-1] <= config.seconds
        waited = len(self.history) - self.best_epoch
        is_patient = config.patience is None or waited < config.patience
        return len(self.history) >= config.epochs or not has_time or not is_patient

    def outcome(self) -> Fitted:
        """Return the finished run; the model gets the best weights."""
        self.model.load_state_dict(self.best)
        self.model.eval()
        return Fitted(
            epochs=tuple(Epoch(**item) for item in self.history),
            best_epoch=self.best_epoch,
            steps=self.steps,
            network_passes=self.shown,
        )

    def _own_noise(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that leaves torch's generators as they were."""
        devices = [] if self.device.type == "cpu" else [self.device]
        return torch.random.fork_rng(devices, device_type=self._accelerator)

    @property
    def _accelerator(self) -> str:
        return "cuda" if self.device.type == "cpu" else self.device.type

    def _noise_state(self) -> Tensor:
        """Return the state of the generator that dropout draws from."""
        if self.device.type == "cpu":
            return torch.get_rng_state()
        return torch.get_device_module(self.device).get_rng_state(self.device)

    def _set_noise_state(self, state: Tensor) -> None:
        if self.device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(self.device).set_rng_state(state, self.device)


_PLAIN = (
    *("identity", "noise", "history", "best", "batches", "taken"),
    *("steps", "shown", "loss_sum", "seconds"),
)
"""What of a run is tensors, numbers and lists of them."""


def _finish(
    run: _Run, checkpoint: Path | None, report: Report, advance: Callable[[], object]
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


def _identity(
    config: FitConfig, seed: int, count: int, part: int | None, piece: int
) -> str:
    """Return what a checkpoint must have in common with the run that continues it."""
    values = config_values(config)
    del values["save_seconds"], values["seconds"]
    values |= {"seed": seed, "networks": count, "part": part, "piece": piece}
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _comparable(score: float) -> float:
    """Return a score that can be compared: NaN is the worst."""
    return -math.inf if math.isnan(score) else score


def _line(run: _Run) -> str:
    """Return what happened in the last epoch, as one line."""
    last = run.history[-1]
    scores = {name: x for name, x in last["validation"].items() if name != "score"}
    listed = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    return (
        f"epoch {len(run.history)}: training loss {last['train_loss']:.4f}, "
        f"validation {listed}, {last['seconds']:.1f} s"
    )


@contextlib.contextmanager
def _bar(is_shown: bool, run: _Run) -> Iterator[Callable[[], object]]:
    """Give what is called after each step."""
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
