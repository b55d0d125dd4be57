"""The outer loop: unroll networks, take meta-gradients, move theta, keep the best."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from l2o.config import config_values
from l2o.rule.checkpoint import save_rule
from optimizees import Task

from .config import MetaTrainConfig
from .cuda_graphs import device_of_run
from .distributed import Processes
from .folder_lock import FolderLock
from .inner_problem import ProblemRunner
from .interrupt import StopRequest
from .meta_optimizer import (
    ThetaAverage,
    build_meta_optimizer,
    choose_trained,
    initial_rule,
    learning_rate,
)
from .problems import TaskBuilder
from .progress import ProgressDisplay
from .provenance import provenance
from .resume import load_checkpoint, save_checkpoint
from .run_log import RunLog
from .task_config import SingleTaskConfig
from .validation import Validation, as_record, averaged, validate

_BEST = {
    "validation": "best.safetensors",
    "test": "best-on-test.safetensors",
}
"""Where the rule is kept that is best on a split."""

_MAX_SKIPPED_IN_A_ROW = 20
"""Outer steps without a finite meta-gradient after which a run ends."""


class MetaTrainer:
    """One run of meta-training, in a folder of its own.

    The folder holds `config.yaml` (resolved), `log.jsonl`, `checkpoint.pt`,
    `best.safetensors` (best on validation) and `last.safetensors`. Of several
    processes, each advances its share of the inner problems, all hold the same theta,
    and the first one validates and writes.

    Args:
        config: the run.
        folder: where it lives; created.
        resume: continue from the folder's checkpoint, bit for bit with as many
            processes, and to rounding with another number.
        processes: the processes of the run; None for this one alone.
        given: the tasks that the configuration names as `given`.
        tensorboard: whether to write what the log holds to `folder`/tensorboard, too.

    Raises:
        FileExistsError: if the folder holds a run and `resume` is False.
        BlockingIOError: if another trainer uses the folder.
        FileNotFoundError: if there is nothing to resume.
        ValueError: if the checkpoint belongs to another configuration, if the file of
            `init` holds another rule than the configured one, or if there are more
            processes than inner problems.
    """

    def __init__(
        self,
        config: MetaTrainConfig,
        folder: Path,
        *,
        resume: bool = False,
        processes: Processes | None = None,
        tensorboard: bool = False,
        given: Mapping[str, Task] | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.processes = Processes() if processes is None else processes
        self.origin = provenance()
        self.device = device_of_run(config.device, needs_gpu=config.cuda_graphs)
        self.checkpoint_path = folder / "checkpoint.pt"
        if self.checkpoint_path.exists() and not resume:
            raise FileExistsError(
                f"MetaTrainer needs a folder without a run; got {folder}. Pass "
                "--resume to continue it, or choose another --folder."
            )
        if self.processes.size > config.num_tasks:
            raise ValueError(
                "MetaTrainer needs an inner problem for every process; got num_tasks="
                f"{config.num_tasks} for {self.processes.size} processes. Raise "
                "num_tasks, or start fewer."
            )
        if resume and not self.checkpoint_path.exists():
            load_checkpoint(self.checkpoint_path)  # says what to do
        self.rule = initial_rule(config).to(self.device)
        self.trained = choose_trained(self.rule, config.trained)
        self.meta_optimizer = build_meta_optimizer(config, self.trained)
        decay = config.meta_optimizer.average
        self.average = None if decay is None else ThetaAverage(self.rule, decay)
        self.outer_step = 0
        self.num_skipped = 0
        self.num_skipped_in_a_row = 0
        self.num_diverged = 0
        self.inner_steps = 0
        self.best = {"validation": -math.inf, "test": -math.inf}
        self.seconds = 0.0
        self.builder = TaskBuilder(config, self.rule, self.device, given)
        self.runners = {
            index: ProblemRunner(config, self.builder, index)
            for index in range(
                self.processes.index, config.num_tasks, self.processes.size
            )
        }
        self.lock = FolderLock(folder) if self.processes.is_first else None
        if resume:
            self._load()
        self.log: RunLog | None = None
        if self.processes.is_first:
            step = self.outer_step
            self.log = RunLog(
                folder, config, step if resume else None, tensorboard=tensorboard
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
            ValueError: if theta is no longer finite, or 20 meta-gradients in a row were
                not; neither is written.
            ConnectionError: if another process of the run died.
        """
        last = self.config.outer_steps
        last = last if until is None else min(last, until)
        start = saved = time.monotonic()
        before = self.seconds
        display = ProgressDisplay(
            self.config.name,
            first=self.outer_step,
            last=last,
            is_silent=not self.processes.is_first,
        )
        with contextlib.closing(self), StopRequest() as stop, display:
            if self.processes.any(not self.checkpoint_path.exists()):
                if self.config.init is not None:
                    self._validate()
                self.save()
            is_stopped = False
            while self.outer_step < last and not is_stopped:
                loss = self.meta_step()
                now = time.monotonic()
                self.seconds = before + now - start
                display.step(loss=loss)
                if self.processes.any(
                    now - saved > 60 * self.config.checkpoint_minutes
                ):
                    self.save()
                    saved = now
                is_late = max_minutes is not None and now - start > 60 * max_minutes
                is_stopped = self.processes.any(stop.is_made or is_late)
            self.save()
        if stop.is_made:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Let other runs have the folder; `train` ends with it."""
        if self.lock is not None:
            self.lock.release()

    def meta_step(self) -> float:
        """Advance every inner problem, move theta once, validate when it is time.

        Returns:
            The mean loss of all inner steps, in nats.
        """
        for group in self.meta_optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.outer_step)
        for weight in self.trained:
            weight.grad = torch.zeros_like(weight)
        totals = torch.zeros(3, dtype=self.trained[0].dtype, device=self.device)
        for runner in self.runners.values():
            losses, has_diverged = runner.advance(self.outer_step)
            totals += totals.new_tensor([sum(losses), len(losses), has_diverged])
        grads = [weight.grad for weight in self.trained if weight.grad is not None]
        self.processes.add_up([totals, *grads])
        total, count, diverged = totals.tolist()
        # Problems that diverged before theta could learn from them took no step.
        loss = total / count if count else math.nan
        self.inner_steps += round(count)
        self.num_diverged += round(diverged)
        norm, is_finite = self._move_theta()
        self.outer_step += 1
        self._write(
            loss=loss,
            grad_norm=norm,
            lr=self.meta_optimizer.param_groups[0]["lr"],
            skipped=not is_finite,
            inner_steps=self.inner_steps,
        )
        is_last = self.outer_step == self.config.outer_steps
        if is_last or self.outer_step % self.config.validation.every == 0:
            self._validate()
        return loss

    def save(self) -> None:
        """Write the checkpoint and the latest rule; every process must take part."""
        runners = {index: runner.state_dict() for index, runner in self.runners.items()}
        runners = self.processes.gather(runners)
        if not self.processes.is_first:
            return
        save_checkpoint(
            {
                "config": config_values(self.config),
                "theta": self.rule.state_dict(),
                "average": None if self.average is None else self.average.theta,
                "meta_optimizer": self.meta_optimizer.state_dict(),
                "counters": self._counters(),
                "runners": runners,
            },
            self.checkpoint_path,
        )
        with self._candidate():
            self._save_rule("last.safetensors")

    def _load(self) -> None:
        values = load_checkpoint(self.checkpoint_path)
        if values["config"] != config_values(self.config):
            raise ValueError(
                f"--resume needs the configuration that {self.folder} was started "
                "with; got another. Pass its config.yaml, or another --folder."
            )
        self.rule.load_state_dict(values["theta"])
        if self.average is not None:
            for name, weight in self.average.theta.items():
                weight.copy_(values["average"][name])
        self.meta_optimizer.load_state_dict(values["meta_optimizer"])
        for name, value in values["counters"].items():
            setattr(self, name, value)
        for index, runner in self.runners.items():
            runner.load_state_dict(values["runners"][index])

    def _counters(self) -> dict[str, Any]:
        names = (
            "outer_step",
            "num_skipped",
            "num_skipped_in_a_row",
            "num_diverged",
            "inner_steps",
            "best",
            "seconds",
        )
        return {name: getattr(self, name) for name in names}

    def _move_theta(self) -> tuple[float, bool]:
        """Clip, check and apply the meta-gradient; return its norm."""
        clip = self.config.meta_optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(
            self.trained, math.inf if clip is None else clip
        )
        is_finite = bool(torch.isfinite(norm))
        if is_finite:
            self.meta_optimizer.step()
            self._check_theta()
            if self.average is not None:
                self.average.update()
            self.num_skipped_in_a_row = 0
        else:
            self.num_skipped += 1
            self.num_skipped_in_a_row += 1
            self._check_progress()
        return float(norm), is_finite

    def _check_theta(self) -> None:
        """Raise unless every weight of theta is finite."""
        sums = torch.stack([weight.detach().sum() for weight in self.trained])
        if not bool(torch.isfinite(sums).all()):
            raise ValueError(
                "MetaTrainer needs finite weights; got an update at outer step "
                f"{self.outer_step + 1} after which some are not. The checkpoint and "
                "the rules in the folder are from before. Lower meta_optimizer.lr and "
                "start again."
            )

    def _check_progress(self) -> None:
        """Raise if theta has not moved for long."""
        if self.num_skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            raise ValueError(
                f"MetaTrainer needs finite meta-gradients; got {_MAX_SKIPPED_IN_A_ROW} "
                "in a row that are not, so theta no longer moves. Lower "
                "meta_optimizer.lr, or shorten unroll."
            )

    def _candidate(self) -> contextlib.AbstractContextManager[None]:
        """Temporarily load what would be shipped: the average, if there is one."""
        if self.average is None:
            return contextlib.nullcontext()
        return self.average.applied()

    def _validate(self) -> None:
        if not self.processes.is_first:
            return
        settings = self.config.validation
        splits: tuple[Literal["validation", "test"], ...] = ("validation",)
        if settings.with_test:
            splits = ("validation", "test")
        with self._candidate():
            results = {
                task.label: validate(
                    self.builder.task(task),
                    self.builder.told(task, is_averaged=self.config.is_averaged),
                    splits,
                    seeds=settings.seeds,
                    steps=settings.steps,
                    is_annealed=settings.schedule == "linear",
                    at_average=self.config.is_averaged,
                )
                for task in settings.tasks
            }
            columns = zip(*results.values(), strict=True)
            means = dict(zip(splits, map(averaged, columns), strict=True))
            name = self._metric_name(settings.tasks)
            found = {split: as_record(mean, name) for split, mean in means.items()}
            for split, mean in means.items():
                merit = self._merit(mean)
                if merit > self.best[split]:
                    self.best[split] = merit
                    self._save_rule(_BEST[split], chosen_on=split, **found)
        self._write(
            **found,
            validation_tasks={
                task.label: as_record(
                    results[task.label][0], self._metric_name((task,))
                )
                for task in settings.tasks
            },
            skipped_total=self.num_skipped,
            diverged_total=self.num_diverged,
            rates=self.builder.rates,
        )

    def _merit(self, found: Validation) -> float:
        """Return how good a candidate is; more is better."""
        if self.config.validation.select == "loss":
            return -found.loss
        return -math.inf if found.metric is None else found.metric

    def _metric_name(self, tasks: Sequence[SingleTaskConfig]) -> str | None:
        """Return the name of the metric that all of the tasks share, if they do."""
        metrics = {self.builder.task(task).task.metric for task in tasks}
        (metric,) = metrics if len(metrics) == 1 else (None,)
        return None if metric is None else metric.name

    def _write(self, **values: Any) -> None:
        """Append one record to the log."""
        if self.log is None:
            return
        seconds = round(self.seconds, 1)
        self.log.write(outer_step=self.outer_step, **values, seconds=seconds)

    def _tasks_of_run(self) -> dict[str, Any]:
        """Return the description of a run's tasks for the rule file."""
        sources = self.builder.sources()
        return {
            "tasks": list(sources),
            "data": "; ".join(dict.fromkeys(sources.values())),
        }

    def _save_rule(self, name: str, **more: Any) -> None:
        counters = self._counters()
        del counters["best"]  # infinite at first, which JSON does not have
        values = {
            **self.origin,
            "config": config_values(self.config),
            **self._tasks_of_run(),
            **counters,
            **more,
        }
        save_rule(self.rule, self.folder / name, provenance=values)
