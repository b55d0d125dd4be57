"""The outer loop: unroll networks, take meta-gradients, move theta, keep the best."""

import math
import time
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from l2o import Rule
from l2o.optim.checkpoint import load_rule, save_rule
from optimizees import ImageData, Task, build_task, load_fashion_mnist

from .config import (
    MetaOptimizerConfig,
    MetaTrainConfig,
    TaskConfig,
    config_values,
    save_config,
)
from .estimators import add_meta_gradient
from .interrupt import StopRequest
from .log import JsonLines
from .provenance import provenance
from .resume import load_checkpoint, save_checkpoint
from .selection import validate
from .unroll import InnerRun, RuleOnGraph


class MetaTrainer:
    """One run of meta-training, in a folder of its own.

    The folder holds `config.yaml` (resolved), `log.jsonl`, `checkpoint.pt`,
    `best.safetensors` (lowest validation loss) and `last.safetensors`.

    Args:
        config: the run.
        folder: where it lives; created.
        resume: continue from the folder's checkpoint, bit for bit.

    Raises:
        FileExistsError: if the folder holds a run and `resume` is False.
        FileNotFoundError: if there is nothing to resume.
        ValueError: if the checkpoint belongs to another configuration, or the file of
            `init` holds another rule than the configured one.
    """

    def __init__(
        self, config: MetaTrainConfig, folder: Path, *, resume: bool = False
    ) -> None:
        self.config = config
        self.folder = folder
        self.origin = provenance()
        self.device = _device(config.device)
        self.checkpoint_path = folder / "checkpoint.pt"
        if self.checkpoint_path.exists() and not resume:
            raise FileExistsError(
                f"MetaTrainer needs a folder without a run; got {folder}. Pass "
                "--resume to continue it, or choose another --folder."
            )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rule = self._initial_rule().to(self.device)
        self.meta_optimizer = _build_meta_optimizer(config, self.rule)
        self.outer_step = 0
        self.num_skipped = 0
        self.num_diverged = 0
        self.inner_steps = 0
        self.best_loss = math.inf
        self.seconds = 0.0
        self._task = cache(self._build_task)
        self._graphs: dict[tuple[tuple[str, torch.Size], ...], RuleOnGraph] = {}
        self.runs: list[tuple[TaskConfig, InnerRun]] = []
        if resume:
            self._load()
        else:
            self.runs = [self._new_run(is_first=True) for _ in range(config.num_tasks)]
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder / "config.yaml")
        self.log = JsonLines(
            folder / "log.jsonl", last_step=self.outer_step if resume else None
        )

    def train(
        self, *, max_minutes: float | None = None, until: int | None = None
    ) -> None:
        """Run to the last outer step, or until a limit is reached.

        Checkpoints are taken between outer steps only: before the first, every
        `checkpoint_minutes` and before returning. SIGINT (Ctrl-C) and SIGTERM stop the
        run after the outer step in progress, its validation included. After any other
        end, a second signal among them, the last checkpoint stands; continue with a new
        trainer and `resume=True`.

        Args:
            max_minutes: wall time of this call; None for no limit.
            until: outer step to stop after; None for the configuration's last one.

        Raises:
            KeyboardInterrupt: if a signal came.
        """
        last = self.config.outer_steps
        last = last if until is None else min(last, until)
        start = saved = time.monotonic()
        before = self.seconds
        bar = tqdm(
            total=last,
            initial=self.outer_step,
            desc=self.config.name,
            disable=None,
        )
        with StopRequest() as stop, bar:
            if not self.checkpoint_path.exists():
                self.save()
            while self.outer_step < last and not stop.is_made:
                self.meta_step()
                now = time.monotonic()
                self.seconds = before + now - start
                bar.update()
                if now - saved > 60 * self.config.checkpoint_minutes:
                    self.save()
                    saved = now
                if max_minutes is not None and now - start > 60 * max_minutes:
                    break
            self.save()
        if stop.is_made:
            raise KeyboardInterrupt

    def meta_step(self) -> None:
        """Advance every inner run, move theta once, validate when it is time."""
        for group in self.meta_optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.outer_step)
        self.meta_optimizer.zero_grad(set_to_none=False)
        losses: list[float] = []
        for index, (_, run) in enumerate(self.runs):
            progress = add_meta_gradient(
                self.config.estimator, run, self.config.steps_per_outer, self.generator
            )
            losses += progress.losses
            if run.is_over:
                self.num_diverged += run.has_diverged
                self.runs[index] = self._new_run()
        self.inner_steps += len(losses)
        norm, is_finite = self._move_theta()
        self.outer_step += 1
        self.log.write(
            outer_step=self.outer_step,
            loss=sum(losses) / len(losses),
            grad_norm=norm,
            lr=self.meta_optimizer.param_groups[0]["lr"],
            skipped=not is_finite,
            inner_steps=self.inner_steps,
            seconds=round(self.seconds, 1),
        )
        is_last = self.outer_step == self.config.outer_steps
        if is_last or self.outer_step % self.config.validation.every == 0:
            self._validate()

    def save(self) -> None:
        """Write the checkpoint and the latest rule."""
        save_checkpoint(
            {
                "config": config_values(self.config),
                "theta": self.rule.state_dict(),
                "meta_optimizer": self.meta_optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "counters": self._counters(),
                "tasks": [config_values(task) for task, _ in self.runs],
                "runs": [run.state_dict() for _, run in self.runs],
            },
            self.checkpoint_path,
        )
        save_rule(
            self.rule, self.folder / "last.safetensors", provenance=self._provenance()
        )

    def _load(self) -> None:
        values = load_checkpoint(self.checkpoint_path)
        if values["config"] != config_values(self.config):
            raise ValueError(
                f"--resume needs the configuration that {self.folder} was started "
                "with; got another. Pass its config.yaml, or another --folder."
            )
        self.rule.load_state_dict(values["theta"])
        self.meta_optimizer.load_state_dict(values["meta_optimizer"])
        self.generator.set_state(values["generator"])
        for name, value in values["counters"].items():
            setattr(self, name, value)
        for task_values, run_values in zip(
            values["tasks"], values["runs"], strict=True
        ):
            task = TaskConfig(**task_values)
            run = InnerRun(self._task(task), self._bound(task), seed=0, length=1)
            run.load_state_dict(_moved(run_values, self.device))
            self.runs.append((task, run))

    def _counters(self) -> dict[str, Any]:
        names = (
            "outer_step",
            "num_skipped",
            "num_diverged",
            "inner_steps",
            "best_loss",
            "seconds",
        )
        return {name: getattr(self, name) for name in names}

    def _initial_rule(self) -> Rule:
        wanted = self.config.rule_config
        if self.config.init is not None:
            rule = load_rule(self.config.init)
            if rule.config != wanted:
                raise ValueError(
                    "MetaTrainConfig init must name a file of the configured rule; got "
                    f"init={self.config.init!r}, which holds {rule.config}, for rule="
                    f"{wanted}. Set rule to what the file holds, or name another file."
                )
            return rule
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            return Rule(wanted)

    def _build_task(self, config: TaskConfig) -> Task:
        return build_task(config.name, self._read("train", config), config.batch_size)

    @cached_property
    def _images(self) -> ImageData:
        """The validation images, read once."""
        return self._read("validation", self.config.validation.task)

    def _read(
        self, split: Literal["train", "validation"], config: TaskConfig
    ) -> ImageData:
        data = load_fashion_mnist(split, source=self.config.data)
        if config.image_size != 28:
            data = data.pooled(config.image_size)
        return data.to(self.device)

    def _bound(self, config: TaskConfig) -> RuleOnGraph:
        """Return the rule on the task's graph; tasks of equal shapes share it."""
        task = self._task(config)
        shapes = {name: param.shape for name, param in task.init_params(0).items()}
        key = tuple(shapes.items())
        if key not in self._graphs:
            bound = RuleOnGraph(self.rule, task, compile=self.config.compile)
            self._graphs[key] = bound
        return self._graphs[key]

    def _new_run(self, *, is_first: bool = False) -> tuple[TaskConfig, InnerRun]:
        """Draw a task, its length and its seed; first runs end early, out of step."""
        weights = torch.tensor([task.weight for task in self.config.tasks])
        choice = int(torch.multinomial(weights, 1, generator=self.generator))
        task = self.config.tasks[choice]
        low, high = self.config.unroll
        place, cut = torch.rand(2, generator=self.generator).tolist()
        length = low * (high / low) ** place
        if is_first and low != high:
            length *= cut
        seed = int(torch.randint(2**31, (1,), generator=self.generator))
        run = InnerRun(
            self._task(task),
            self._bound(task),
            seed=seed,
            length=max(1, round(length)),
        )
        return task, run

    def _move_theta(self) -> tuple[float, bool]:
        """Clip, check and apply the meta-gradient; return its norm."""
        weights = list(self.rule.parameters())
        clip = self.config.meta_optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(
            weights, math.inf if clip is None else clip
        )
        is_finite = bool(torch.isfinite(norm))
        if is_finite:
            self.meta_optimizer.step()
        else:
            self.num_skipped += 1
        return float(norm), is_finite

    def _validate(self) -> None:
        settings = self.config.validation
        task = self._task(settings.task)
        result = validate(
            task,
            self._bound(settings.task),
            self._images,
            seeds=settings.seeds,
            steps=settings.steps,
        )
        self.log.write(
            outer_step=self.outer_step,
            validation=result._asdict(),
            skipped_total=self.num_skipped,
            diverged_total=self.num_diverged,
            seconds=round(self.seconds, 1),
        )
        if result.loss < self.best_loss:
            self.best_loss = result.loss
            save_rule(
                self.rule,
                self.folder / "best.safetensors",
                provenance={**self._provenance(), "validation": result._asdict()},
            )

    def _provenance(self) -> dict[str, Any]:
        data = self._task(self.config.tasks[0]).data
        return {
            **self.origin,
            "config": config_values(self.config),
            "data": data.source,
            **self._counters(),
        }


def learning_rate(config: MetaTrainConfig, outer_step: int) -> float:
    """Return the meta learning rate: linear warm-up, then a cosine.

    Args:
        config: the run; its `meta_optimizer` and `outer_steps` matter.
        outer_step: number of updates already made.
    """
    settings = config.meta_optimizer
    if outer_step < settings.warmup:
        return settings.lr * (outer_step + 1) / settings.warmup
    span = max(config.outer_steps - settings.warmup, 1)
    cosine = (1 + math.cos(math.pi * (outer_step - settings.warmup) / span)) / 2
    low = settings.final_lr_share
    return settings.lr * (low + (1 - low) * cosine)


def _build_meta_optimizer(config: MetaTrainConfig, rule: Rule) -> torch.optim.Optimizer:
    settings: MetaOptimizerConfig = config.meta_optimizer
    build = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return build(
        rule.parameters(),
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _moved(values: Any, device: torch.device) -> Any:
    """Return nested values with every tensor on `device`, but generator states."""
    if isinstance(values, dict):
        return {
            key: item if key == "batches" else _moved(item, device)
            for key, item in values.items()
        }
    return values.to(device) if isinstance(values, torch.Tensor) else values
