"""The Python entry of meta-training; the command is a thin layer over it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from l2o.rule.build import AnyRule, AnyRuleConfig
from l2o.rule.checkpoint import load_rule
from optimizees import Task

from .config import MetaTrainConfig, ValidationConfig
from .distributed import join_processes
from .estimator_config import EstimatorConfig, ImitationConfig
from .loop import MetaTrainer
from .task_config import GivenTaskConfig


def train(
    tasks: Task | Sequence[Task],
    *,
    folder: str | Path,
    rule: str | AnyRuleConfig = "default",
    estimator: EstimatorConfig | None = None,
    outer_steps: int = 1000,
    validation: ValidationConfig | None = None,
    validation_tasks: Task | Sequence[Task] = (),
    device: str | None = None,
    resume: bool = False,
    max_minutes: float | None = None,
    until: int | None = None,
    tensorboard: bool = False,
    **settings: Any,
) -> AnyRule:
    """Meta-train a rule on your own tasks; return the best one found.

    `folder` holds the run: `log.jsonl`, `checkpoint.pt`, `best.safetensors` (lowest
    validation loss), `last.safetensors`, `config.yaml`. Ctrl-C stops after the outer
    step in progress; `resume=True` continues bit for bit. Under `torchrun`, processes
    share the work.

    Args:
        tasks: what the rule learns to train.
        folder: where the run lives; created.
        rule: a preset's name, or the configuration of a rule.
        estimator: how the meta-gradient is found; None for imitation of a hand-designed
            optimizer, the cheapest start.
        outer_steps: updates of the rule's weights.
        validation: how often and how long candidates are validated; None for five
            times, over the longest life of `unroll`. Its `tasks` are replaced by
            `validation_tasks`.
        validation_tasks: what candidates are compared on, by their held-out split
            "validation"; none for `tasks` themselves.
        device: "auto", "cpu", "cuda" or "mps", to which tasks are moved; None for where
            they are.
        resume: continue the run in the folder.
        max_minutes: stop, with a checkpoint, after this many minutes.
        until: stop, with a checkpoint, after this outer step.
        tensorboard: write the log for TensorBoard, too.
        settings: other fields of `MetaTrainConfig`, for example `unroll=(20, 200)`.

    Returns:
        The rule that was best on the validation tasks; the latest one if none was
        validated yet.

    Raises:
        ValueError: if two different tasks have one name, a validation task has no
            held-out split "validation", tasks lie on different devices, or a setting is
            out of range; if the weights stop being finite.
        FileExistsError: if the folder holds a run and `resume` is False.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint.

    Example:
        >>> import meta_train
        >>> from optimizees import load_task
        >>> task = load_task("fashion-mlp", image_size=7, data="embedded")
        >>> rule = meta_train.train(  # doctest: +SKIP
        ...     task, folder="runs/mine", rule="default-ff", outer_steps=50
        ... )
    """
    trained, validated = _listed(tasks), _listed(validation_tasks) or _listed(tasks)
    if not trained:
        raise ValueError(
            "train needs at least one task; got none. Pass an optimizees.Task."
        )
    given = _by_name([*trained, *validated])
    for task in validated:
        if not task.held_out.get("validation"):
            raise ValueError(
                "train needs held-out batches for its validation tasks; got none for "
                f"{task.name!r}. Build the task with held_out={{'validation': [...]}}."
            )
    home = Path(folder)
    longest = settings.get("unroll", (100, 1000))[-1]
    chosen = ValidationConfig(every=max(1, outer_steps // 5), steps=longest)
    config = MetaTrainConfig(
        **{
            "name": home.resolve().name or "run",
            "compile": False,
            **settings,
            "rule": rule,
            "estimator": ImitationConfig() if estimator is None else estimator,
            "outer_steps": outer_steps,
            "tasks": _named(trained),
            "validation": replace(
                chosen if validation is None else validation, tasks=_named(validated)
            ),
            "device": _device_of(given) if device is None else device,
        }
    )
    run(
        config,
        home,
        given=given,
        resume=resume,
        tensorboard=tensorboard,
        max_minutes=max_minutes,
        until=until,
    )
    best, last = home / "best.safetensors", home / "last.safetensors"
    return load_rule(best if best.exists() else last)


def run(
    config: MetaTrainConfig,
    folder: Path,
    *,
    given: Mapping[str, Task] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    max_minutes: float | None = None,
    until: int | None = None,
) -> None:
    """Carry out a configured run, alone or with the processes of `torchrun`.

    Args:
        config: the run.
        folder: where it lives; created.
        given: the tasks that the configuration names as `given`.
        resume: continue the run in the folder, bit for bit.
        tensorboard: write the log for TensorBoard, too.
        max_minutes: stop, with a checkpoint, after this many minutes.
        until: stop, with a checkpoint, after this outer step.

    Raises:
        ValueError: as `MetaTrainer` and its `train`.
        FileExistsError: if the folder holds a run and `resume` is False.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint.
    """
    with join_processes() as processes:
        trainer = MetaTrainer(
            config,
            folder,
            resume=resume,
            processes=processes,
            tensorboard=tensorboard,
            given=given,
        )
        trainer.train(max_minutes=max_minutes, until=until)


def _listed(tasks: Task | Sequence[Task]) -> list[Task]:
    return [tasks] if isinstance(tasks, Task) else list(tasks)


def _by_name(tasks: Sequence[Task]) -> dict[str, Task]:
    """Return the tasks by name, by which logs and checkpoints know them."""
    found: dict[str, Task] = {}
    for task in tasks:
        if found.setdefault(task.name, task) is not task:
            raise ValueError(
                "train needs tasks with different names; got two that are called "
                f"{task.name!r}. Rename one: dataclasses.replace(task, name=...)."
            )
    return found


def _named(tasks: Sequence[Task]) -> tuple[GivenTaskConfig, ...]:
    return tuple(GivenTaskConfig(kind="given", name=task.name) for task in tasks)


def _device_of(tasks: Mapping[str, Task]) -> str:
    """Return the one device of all tasks."""
    devices = {str(task.device) for task in tasks.values()}
    if len(devices) != 1:
        raise ValueError(
            f"train needs tasks on one device; got {sorted(devices)}. Pass device=, to "
            "which all are moved."
        )
    return devices.pop()
