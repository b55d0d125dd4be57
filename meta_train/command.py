"""The verbs `l2o meta-train` and `l2o validate`."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from l2o.rule.checkpoint import load_rule
from l2o.rule.horizon import with_aim, with_horizon
from optimizees import FunctionalTask, TaskName, load_task
from optimizees.devices import choose_device

from .unroll import RuleOnGraph
from .validation import validate as validation_of


def meta_train(
    config: tyro.conf.Positional[Path],
    *,
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    folder: Path | None = None,
    resume: bool = False,
    device: str | None = None,
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None,
    max_minutes: float | None = None,
    until: int | None = None,
    tensorboard: bool = False,
) -> None:
    """Meta-train a rule as a YAML file says.

    Several processes share a run under `torchrun --nproc-per-node N -m meta_train`.

    Args:
        config: the run, for example meta_train/configs/ff-imitation.yaml.
        changes: settings in place of the file's: seed=1 estimator.replay=0.25
        folder: where the run is kept; by default runs/ and the run's name.
        resume: continue the run in the folder, bit for bit.
        device: auto, cpu, cuda or mps, in place of the file's.
        threads: CPU threads; by default all cores.
        max_minutes: stop, with a checkpoint, after this many minutes.
        until: stop, with a checkpoint, after this outer step.
        tensorboard: write the log for TensorBoard, too; needs that package.
    """
    # pydantic and PyYAML come with the extra [train]; the verb above needs neither.
    from .config import load_config
    from .entry import run

    if threads is not None:
        torch.set_num_threads(threads)
    if device is not None:
        changes = (*changes, f"device={device}")
    settings = load_config(config, changes)
    run(
        settings,
        Path("runs") / settings.name if folder is None else folder,
        resume=resume,
        tensorboard=tensorboard,
        max_minutes=max_minutes,
        until=until,
    )


def search(
    config: tyro.conf.Positional[Path],
    *,
    folder: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None,
    max_minutes: float | None = None,
) -> None:
    """Search a few weights of a rule by CMA-ES, as a YAML file says.

    Args:
        config: the search, for example meta_train/configs/search/base-rates.yaml.
        folder: where it is kept; by default runs/ and the search's name.
        resume: continue the search in the folder.
        device: auto, cpu, cuda or mps.
        threads: CPU threads; by default all cores.
        max_minutes: stop after the generation in progress at this many minutes.
    """
    from .search import RateSearch
    from .search_config import load_search

    if threads is not None:
        torch.set_num_threads(threads)
    settings = load_search(config)
    place = Path("runs") / settings.name if folder is None else folder
    RateSearch(settings, place, resume=resume, device=device).run(max_minutes)


def validate(
    rules: tyro.conf.Positional[tuple[str, ...]],
    *,
    seeds: tuple[int, ...] = (9001, 9002),
    steps: int = 1000,
    schedule: Literal["constant", "linear"] = "constant",
    average: bool = False,
    horizon: bool = False,
    task: TaskName = "fashion-cnn",
    batch_size: int = 128,
    data: Literal["auto", "full", "embedded"] = "auto",
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Measure rules on validation data, as meta-training selects them.

    Args:
        rules: shipped rules, or paths of rule files.
        seeds: of initial weights and batches.
        steps: of each run.
        schedule: multiplier of the updates: 1, or falling to 0 over a run.
        average: measure the averaged weights, as with `average=True`.
        horizon: tell the rule the number of steps, as with `total_steps`.
        task: what is trained.
        batch_size: examples per batch.
        data: which copy of FashionMNIST.
        device: auto, cpu, cuda or mps.
        threads: CPU threads.
    """
    if not rules:
        raise ValueError(
            "validate needs at least one rule; got none. Pass a name that `l2o rules` "
            "lists, or the path of a rule file."
        )
    for name, values in (
        ("seeds", (len(seeds),)),
        ("steps", (steps,)),
        ("batch-size", (batch_size,)),
        ("threads", (threads,)),
    ):
        if min(values) < 1:
            raise ValueError(
                f"validate needs {name} of at least 1; got {values[0]}. Raise --{name}."
            )
    torch.set_num_threads(threads)
    place = choose_device(device)
    loaded = [load_rule(name).to(place) for name in rules]
    trained = FunctionalTask(
        load_task(task, batch_size=batch_size, data=data, device=place)
    )
    told = f"{schedule} multiplier"
    told += ", averaged weights" * average + ", length told" * horizon
    for name, rule in zip(rules, loaded, strict=True):
        rule = with_horizon(rule, steps if horizon else None)
        rule = with_aim(rule, is_averaged=average)
        (result,) = validation_of(
            trained,
            RuleOnGraph(rule, trained, compile=False),
            ["validation"],
            seeds=seeds,
            steps=steps,
            is_annealed=schedule == "linear",
            at_average=average,
        )
        metric = trained.task.metric
        measured = "" if metric is None else f"{metric.name} {result.metric:.2%}, "
        print(
            f"{name}: validation {measured}loss {result.loss:.4f}, training loss "
            f"{result.train_loss:.4f} (n = {len(seeds)}, {steps} steps, "
            f"{trained.task.source}; {told})"
        )
