"""One run of meta-training as one frozen record; read from YAML, strict both ways."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

import yaml

from l2o import PRESETS
from l2o.config import BelowOne, NotNegative, Positive, config_values, frozen_config
from l2o.files import write_whole
from l2o.rule.build import AnyRuleConfig

from .estimator_config import EstimatorConfig, FirstOrderConfig
from .task_config import AnyTaskConfig, SingleTaskConfig, TaskConfig
from .yaml_file import config_from, parse_yaml, read_yaml


@frozen_config
class MetaOptimizerConfig:
    """AdamW on theta, with warm-up, cosine decay and clipping."""

    kind: Literal["adam", "adamw"] = "adamw"
    """`adam` puts the decay into the gradient, as the paper does; `adamw` decouples."""
    lr: Positive[float] = 1e-3
    """Peak learning rate."""
    betas: tuple[BelowOne[float], BelowOne[float]] = (0.9, 0.99)
    """Decays of the moments."""
    weight_decay: NotNegative[float] = 1e-4
    """Decay of theta."""
    warmup: NotNegative[int] = 20
    """Outer steps of linear warm-up; 0 for none."""
    final_lr_share: float = 0.0
    """Learning rate at the last outer step over the peak; between them a cosine."""
    clip_norm: Positive[float] | None = 1.0
    """Largest norm of a meta-gradient; None for no clipping."""
    average: BelowOne[float] | None = None
    """Decay of an exponential moving average of theta; it is what is validated and
    saved. None: theta itself."""

    def __post_init__(self) -> None:
        if not 0 <= self.final_lr_share <= 1:
            raise ValueError(
                "MetaOptimizerConfig final_lr_share must be from 0 to 1; got "
                f"final_lr_share={self.final_lr_share}. Choose 0 to decay to nothing, "
                "or 1 for no decay."
            )


@frozen_config
class ValidationConfig:
    """How candidate rules are compared, on held-out data of the tasks."""

    every: Positive[int] = 50
    """Outer steps between two validations."""
    steps: Positive[int] = 1000
    """Inner steps of a validation run."""
    seeds: tuple[NotNegative[int], ...] = (9001, 9002)
    """Seeds of the validation networks and batches."""
    select: Literal["loss", "accuracy"] = "loss"
    """Measure that chooses the best rule: the lowest loss, or the highest accuracy,
    which all of the tasks must have."""
    with_test: bool = False
    """Whether the test split is looked at, too, and the rule that is best on them is
    kept as `best-on-test.safetensors`: to measure what choosing on the test set, as the
    paper did, makes of the result. It decides nothing else."""
    schedule: Literal["constant", "linear"] = "constant"
    """Multiplier of the updates: 1, or falling to 0 over a run, for rules that are to
    be used with a scheduler."""
    tasks: tuple[SingleTaskConfig, ...] = (TaskConfig(),)
    """What is trained; the mean over all of them counts."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError(
                "ValidationConfig seeds must hold at least one seed; got seeds=(). "
                "Add one, for example 9001."
            )
        if not self.tasks:
            raise ValueError(
                "ValidationConfig tasks must hold at least one problem; got tasks=(). "
                "Add one, for example {name: fashion-cnn}."
            )


@frozen_config
class MetaTrainConfig:
    """A whole run of meta-training."""

    name: str
    """Name of the run and of its folder."""
    rule: str | AnyRuleConfig = "default"
    """The rule to train: a preset's name, or features, network and head."""
    seed: NotNegative[int] = 0
    """Decides initial theta, inner problems, batches and replays."""
    init: str | tuple[str, ...] | None = None
    """A rule file to start from, instead of a fresh theta. Of several, the first holds
    the configured rule, and each later one replaces the weights that it has, too."""
    zeroed: tuple[str, ...] = ()
    """Which weights of theta are zero at the start: patterns as in `trained`. A network
    whose last layers are zero says nothing yet, whatever its other layers know."""
    outer_steps: Positive[int] = 1000
    """Number of updates of theta."""
    num_tasks: Positive[int] = 2
    """Inner problems in flight; each advances in every outer step."""
    steps_per_outer: Positive[int] = 40
    """Inner steps a problem advances between two updates of theta."""
    trained: tuple[str, ...] = ("*",)
    """Which weights of theta move: patterns of names as a shell has them, for example
    `net.entry.last.*`. The others stay as they were."""
    unroll: tuple[int, int] = (100, 1000)
    """Shortest and longest life of an inner problem, in inner steps; log-uniform."""
    curriculum: NotNegative[int] = 0
    """Outer steps over which the longest life grows from the shortest one to its full
    length; 0 for the full length at once."""
    horizon_share: BelowOne[float] = 0.0
    """Share of the inner problems whose rule is told their length."""
    average_share: float = 0.0
    """Share of the inner problems that are judged at the averaged weights; the rule is
    told. From 0.5 on, validation measures the averaged weights, too. Needs an estimator
    with `end_batches`."""
    max_offset: BelowOne[float] = 0.0
    """Largest share of a life that passes before theta learns from it; drawn uniformly
    for each problem, so that windows begin at every age."""
    tasks: tuple[AnyTaskConfig, ...] = (TaskConfig(),)
    """The kinds of inner problem."""
    estimator: EstimatorConfig = field(default_factory=FirstOrderConfig)
    """How the meta-gradient is found."""
    meta_optimizer: MetaOptimizerConfig = MetaOptimizerConfig()
    """How theta moves."""
    validation: ValidationConfig = ValidationConfig()
    """How the shipped theta is selected."""
    checkpoint_minutes: Positive[float] = 3.0
    """Minutes between two checkpoints."""
    device: str = "auto"
    """`auto` takes CUDA when there is a GPU, else the CPU; or cpu, cuda, mps."""
    compile: bool = True
    """Whether the rule is compiled; worth it from a few hundred outer steps on."""
    cuda_graphs: bool = False
    """Whether inner steps without autograd are captured as CUDA graphs and replayed, on
    a GPU; estimators that replay some steps take theirs so. Capturing takes a minute a
    kind of problem."""
    data: Literal["auto", "full", "embedded"] = "auto"
    """Which copy of FashionMNIST; `full` fails where it is absent."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not self.tasks:
            raise ValueError(
                "MetaTrainConfig tasks must hold at least one inner problem; got "
                "tasks=(). Add one, for example {name: fashion-cnn}."
            )
        low, high = self.unroll
        if not 1 <= low <= high:
            raise ValueError(
                "MetaTrainConfig unroll must be (shortest, longest) with 1 <= shortest "
                f"<= longest; got unroll={self.unroll}. Swap or raise them."
            )
        if isinstance(self.rule, str) and self.rule not in PRESETS:
            raise ValueError(
                f"MetaTrainConfig rule must be one of {sorted(PRESETS)} or a mapping "
                f"with net, features and head; got rule={self.rule!r}."
            )
        if not 0 <= self.average_share <= 1:
            raise ValueError(
                "MetaTrainConfig average_share must be from 0 to 1; got average_share="
                f"{self.average_share}. Choose a share, for example 0.5."
            )
        if self.average_share and not getattr(self.estimator, "end_batches", 0):
            raise ValueError(
                "MetaTrainConfig average_share needs an estimator that measures the "
                f"ends of windows; got {self.estimator.kind}. Choose es, pes or nres "
                "with end_batches of at least 1, or set average_share to 0."
            )
        window = getattr(self.estimator, "window", 1)
        if self.steps_per_outer % window:
            raise ValueError(
                "MetaTrainConfig steps_per_outer must be a multiple of the "
                f"estimator's window; got {self.steps_per_outer} for a window of "
                f"{window}. Change one of them."
            )

    @property
    def rule_config(self) -> AnyRuleConfig:
        """The rule as a record, presets looked up."""
        return PRESETS[self.rule] if isinstance(self.rule, str) else self.rule

    @property
    def is_averaged(self) -> bool:
        """Whether validation measures the averaged weights, of which rules are told."""
        return self.average_share >= 0.5


def _check_name(name: str) -> None:
    """Raise unless a name can be that of one folder."""
    is_plain = name.strip() == name and name.isprintable()
    if not is_plain or name in ("", ".", "..") or set("/\\") & set(name):
        raise ValueError(
            "MetaTrainConfig name must be the name of one folder; got "
            f"name={name!r}. Choose letters, digits and dashes, for example my-run."
        )


def load_config(path: Path, changes: Sequence[str] = ()) -> MetaTrainConfig:
    """Read a run from YAML.

    Args:
        path: the file. Keys that are not in `MetaTrainConfig` are errors.
        changes: settings that take the place of the file's, as `seed=1` or
            `estimator.replay=0.25`; values are YAML.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming each key that is unknown or has a bad value, or a change that
            is none.
    """
    values = read_yaml(path, owner="load_config", shipped="meta_train/configs")
    for change in changes:
        _apply_change(values, change)
    return parse_config(values, origin=" ".join([str(path), *changes]))


def _apply_change(values: object, change: str) -> None:
    """Set one value, in place."""
    key, mark, text = change.partition("=")
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {}) if isinstance(values, dict) else None
    if not (mark and last and isinstance(values, dict)):
        raise ValueError(
            "load_config needs changes as KEY=VALUE, with dots between the names of "
            f"settings in settings; got {change!r}. Write for example seed=1 or "
            "estimator.replay=0.25, or change the file."
        )
    try:
        values[last] = parse_yaml(text)
    except ValueError as error:
        raise ValueError(
            f"load_config needs YAML behind the = of a change; got {change!r}: {error}."
        ) from error


def parse_config(values: object, *, origin: str) -> MetaTrainConfig:
    """Return the run that plain values describe; `origin` names them in errors."""
    return config_from(
        MetaTrainConfig, values, origin=origin, what="a meta-training run"
    )


def save_config(config: MetaTrainConfig, path: Path) -> None:
    """Write the resolved run as YAML; `load_config` reads it back unchanged."""
    text = yaml.safe_dump(config_values(config), sort_keys=False)
    write_whole(path, text.encode())
