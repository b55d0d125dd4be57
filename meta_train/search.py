"""A search for the rates of a rule's base by CMA-ES, with common random numbers."""

import json
import math
import pickle
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.config import config_values
from l2o.files import write_whole
from l2o.rule.checkpoint import load_rule, save_rule
from l2o.rule.neuron_rule import NeuronRule
from l2o.schedules import average_share
from optimizees import FunctionalTask

from .config import MetaTrainConfig
from .folder_lock import FolderLock
from .problems import TaskBuilder
from .provenance import provenance
from .search_config import SearchConfig
from .task_config import FamilyConfig
from .unroll import InnerRun, ProblemStart, RuleOnGraph

_SMALLEST_LOSS = 1e-6
"""Below it the logarithm of a loss stays where it is."""

_DIVERGED = 10.0
"""Logarithm of the loss that a run counts that diverged."""


class Drawn(NamedTuple):
    """One problem of a generation."""

    task: int
    """Place in the tasks of the search."""
    member: int
    """Which member of a family; 0 for another task."""
    seed: int
    """Of initial weights and batches."""
    horizon: int | None
    """Number of steps, if the rule is told; None if it is not."""


class RateSearch:
    """Searches a few weights of a rule; nothing is differentiated.

    Each generation draws problems. Every candidate trains on all of them, and its score
    is the mean over problems of the logarithm of its losses, relative to the median
    candidate's. The mean of the search distribution, not the best candidate seen, is
    the result: single scores are noisy.

    Args:
        config: the search.
        folder: where it lives: `log.jsonl`, `search.pkl`, `last.safetensors`.
        resume: continue the search in the folder.

    Raises:
        FileExistsError: if the folder holds a search and `resume` is False.

    Reference:
        Hansen, 2016, "The CMA Evolution Strategy: A Tutorial",
        https://arxiv.org/abs/1604.00772, by the package `cma`.
    """

    def __init__(
        self, config: SearchConfig, folder: Path, *, resume: bool = False
    ) -> None:
        import cma

        self.config, self.folder = config, folder
        self._lock = FolderLock(folder)
        self.rule = NeuronRule(config.rule)
        if config.init is not None:
            known = load_rule(config.init).state_dict()
            self.rule.load_state_dict(known, strict=False)
        weights = dict(self.rule.named_parameters())
        for name, values in config.start.items():
            if name not in weights or weights[name].numel() != len(values):
                raise ValueError(
                    "SearchConfig start must name weights of the rule and give one "
                    f"number per entry; got {name!r} with {len(values)}. The weights "
                    f"are {', '.join(weights)}."
                )
            own = weights[name]
            own.data.copy_(torch.tensor(values).view_as(own))
        self.names = [
            name
            for name in weights
            if any(fnmatch(name, pattern) for pattern in config.searched)
        ]
        saved = folder / "search.pkl"
        if saved.exists() and not resume:
            raise FileExistsError(
                f"RateSearch needs an empty folder; got {folder}, which holds a "
                "search. Continue it with --resume, or choose another folder."
            )
        self.generation = 0
        self.inner_steps = 0
        self.seconds = 0.0
        if saved.exists():
            known = pickle.loads(saved.read_bytes())
            self.generation, self.inner_steps, self.seconds, self.search = known
        else:
            start = torch.cat([weights[name].detach().flatten() for name in self.names])
            options = {
                "popsize": config.population,
                "seed": config.seed + 1,
                "verbose": -9,
            }
            self.search = cma.CMAEvolutionStrategy(
                start.double().tolist(), config.sigma, options
            )
        self.builder = TaskBuilder(
            MetaTrainConfig(
                name=config.name,
                rule=config.rule,
                tasks=config.tasks,
                compile=False,
                data=config.data,
            ),
            self.rule,
            torch.device("cpu"),
        )

    def run(self, max_minutes: float | None = None) -> None:
        """Search until all generations are done, or the time is over."""
        start = time.monotonic()
        while self.generation < self.config.generations:
            minutes = (time.monotonic() - start) / 60
            if max_minutes is not None and minutes > max_minutes:
                break
            self.advance()

    def advance(self) -> None:
        """Carry out one generation and write everything."""
        start = time.monotonic()
        drawn = self._draw()
        candidates = self.search.ask()
        table = torch.tensor([[self._life(c, d) for d in drawn] for c in candidates])
        relative = table - table.median(dim=0).values
        scores = relative.clamp(-self.config.most, self.config.most).mean(1)
        self.search.tell(candidates, scores.tolist())
        self.generation += 1
        self.seconds += time.monotonic() - start
        centre = self.search.result.xfavorite
        self._put(torch.tensor(centre))
        labels = [self._label(item) for item in drawn]
        self._log(labels, table, centre)
        save_rule(
            self.rule, self.folder / "last.safetensors", provenance=self._origin()
        )
        state = pickle.dumps(
            (self.generation, self.inner_steps, self.seconds, self.search)
        )
        write_whole(self.folder / "search.pkl", state)

    def _draw(self) -> list[Drawn]:
        """Draw the problems of this generation."""
        config = self.config
        generator = torch.Generator().manual_seed(
            1_000_003 * config.seed + self.generation
        )
        weights = torch.tensor([task.weight for task in config.tasks])
        chosen = torch.multinomial(
            weights,
            config.problems,
            replacement=config.problems > len(weights),
            generator=generator,
        )
        drawn = []
        for place in chosen.tolist():
            task = config.tasks[place]
            member = 0
            if isinstance(task, FamilyConfig):
                member = int(torch.randint(task.members, (1,), generator=generator))
            seed = int(torch.randint(2**31, (1,), generator=generator))
            length = config.steps[
                int(torch.randint(len(config.steps), (1,), generator=generator))
            ]
            knows = float(torch.rand(1, generator=generator)) < config.horizon_share
            drawn.append(Drawn(place, member, seed, length if knows else None))
        return drawn

    def _label(self, drawn: Drawn) -> str:
        config = self.config.tasks[drawn.task]
        end = "" if drawn.horizon is None else f", ends at {drawn.horizon}"
        return f"{self.builder.task(config, drawn.member).name}{end}"

    def _life(self, candidate: Any, drawn: Drawn) -> float:
        """Return the logarithm of the losses of one life, weighted and averaged."""
        self._put(torch.as_tensor(candidate))
        self.rule.horizon = drawn.horizon
        config = self.config.tasks[drawn.task]
        task = self.builder.task(config, drawn.member)
        bound = self.builder.bound(config, drawn.member)
        moments = self.config.steps if drawn.horizon is None else (drawn.horizon,)
        found = life_losses(
            task,
            bound,
            seed=drawn.seed,
            moments=moments,
            batches=self.config.batches,
        )
        self.rule.horizon = None
        self.inner_steps += moments[-1]
        raw = 1.0 if drawn.horizon is not None else self.config.raw_share
        logs = [
            raw * _log(latest) + (1 - raw) * _log(average) for latest, average in found
        ]
        return sum(logs) / len(logs)

    @torch.no_grad()
    def _put(self, values: Tensor) -> None:
        """Write a candidate into the rule."""
        weights = dict(self.rule.named_parameters())
        start = 0
        for name in self.names:
            own = weights[name]
            own.copy_(values[start : start + own.numel()].view_as(own))
            start += own.numel()

    def _log(self, labels: list[str], table: Tensor, centre: Any) -> None:
        record = {
            "generation": self.generation,
            "sigma": self.search.sigma,
            "problems": {
                label: [round(float(v), 4) for v in column]
                for label, column in zip(labels, table.T, strict=True)
            },
            "centre": [round(float(value), 5) for value in centre],
            "deviations": [round(float(v), 5) for v in self.search.result.stds],
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _origin(self) -> dict[str, Any]:
        return {
            "config": config_values(self.config),
            "estimator": "cma-es",
            "outer_step": self.generation,
            "inner_steps": self.inner_steps,
            "seconds": round(self.seconds, 1),
            "searched": self.names,
            **provenance(),
        }


def life_losses(
    task: FunctionalTask,
    bound: RuleOnGraph,
    *,
    seed: int,
    moments: tuple[int, ...],
    batches: int,
) -> list[tuple[float, float]]:
    """Return losses at the latest and at the averaged weights, per moment.

    The batches are those of another seed, from the same training data, and the same
    ones for every candidate. Batch norm uses their statistics, not the running ones.

    Args:
        task: what is trained.
        bound: the rule on its graph.
        seed: of initial weights and batches.
        moments: numbers of inner steps, ascending.
        batches: on how many a loss is measured.

    Returns:
        Pairs of losses; those of a run that diverged are infinite.
    """
    run = InnerRun(ProblemStart(task, bound, seed=seed, length=moments[-1]))
    measured = task.batches(seed + 1)
    average = {name: param.clone() for name, param in run.params.items()}
    found = []
    for moment in moments:
        while run.position < moment and not run.is_over:
            run.step()
            share = average_share(float(run.position - 1))
            for name, param in run.params.items():
                average[name].lerp_(param, share)
            run.measure()
        if run.has_diverged:
            found += [(math.inf, math.inf)] * (len(moments) - len(found))
            break
        drawn = [measured.next() for _ in range(batches)]
        pair = []
        for params in (run.params, average):
            with torch.no_grad():
                losses = [
                    float(task.loss(params, batch, run.buffers)) for batch in drawn
                ]
            pair.append(sum(losses) / batches)
        found.append((pair[0], pair[1]))
    return found


def _log(loss: float) -> float:
    """Return a loss's logarithm, bounded on both sides."""
    if not math.isfinite(loss):
        return _DIVERGED
    return math.log(max(loss, _SMALLEST_LOSS))
