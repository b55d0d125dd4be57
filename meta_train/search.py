"""A search for the rates of a rule's base by CMA-ES, with common random numbers."""

import json
import math
import pickle
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.config import config_values
from l2o.files import write_whole
from l2o.rule.checkpoint import load_rule, save_rule
from l2o.rule.neuron_rule import NeuronRule
from optimizees.devices import choose_device

from .config import MetaTrainConfig
from .folder_lock import FolderLock
from .lanes import Lanes
from .problems import TaskBuilder
from .provenance import provenance
from .search_config import SearchConfig
from .task_config import FamilyConfig
from .unroll import ProblemStart

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
    is_averaged: bool
    """Whether the averaged weights are measured, not the latest."""


class Searched(NamedTuple):
    """A weight of the rule, or one row of it."""

    name: str
    """Of the weight."""
    row: int | None = None
    """Place of the row; None for the whole."""

    def of(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the entries, sharing their memory."""
        own = weights[self.name].detach()
        return own if self.row is None else own[self.row]

    def __str__(self) -> str:
        """Return it as a configuration names it."""
        return self.name if self.row is None else f"{self.name}[{self.row}]"


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
        device: where networks are trained: "auto", "cpu", "cuda" or "mps".

    Raises:
        FileExistsError: if the folder holds a search and `resume` is False.
        ValueError: if the device is not there.

    Reference:
        Hansen, 2016, "The CMA Evolution Strategy: A Tutorial",
        https://arxiv.org/abs/1604.00772, by the package `cma`.
    """

    def __init__(
        self,
        config: SearchConfig,
        folder: Path,
        *,
        resume: bool = False,
        device: str = "auto",
    ) -> None:
        import cma

        place = choose_device(device)
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
        weights = dict(self.rule.to(place).named_parameters())
        self.weights = weights
        self.searched = _searched(weights, config.searched)
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
            start = torch.cat([item.of(weights).flatten() for item in self.searched])
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
            place,
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
        table = torch.stack([self._lives(candidates, item) for item in drawn], dim=1)
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
            aim = float(torch.rand(1, generator=generator))
            knows = aim < config.horizon_share
            is_averaged = (
                not knows and aim < config.horizon_share + config.average_share
            )
            horizon = length if knows else None
            drawn.append(Drawn(place, member, seed, horizon, is_averaged))
        return drawn

    def _label(self, drawn: Drawn) -> str:
        config = self.config.tasks[drawn.task]
        end = ", averaged" if drawn.is_averaged else ""
        if drawn.horizon is not None:
            end = f", ends at {drawn.horizon}"
        return f"{self.builder.task(config, drawn.member).name}{end}"

    def _lives(self, candidates: Sequence[Any], drawn: Drawn) -> Tensor:
        """Return each candidate's logarithm of its losses on one problem, averaged."""
        config = self.config.tasks[drawn.task]
        task = self.builder.task(config, drawn.member)
        bound = self.builder.told(
            config,
            drawn.member,
            horizon=drawn.horizon,
            is_averaged=drawn.is_averaged,
        )
        moments = self.config.steps if drawn.horizon is None else (drawn.horizon,)
        lanes = Lanes(
            ProblemStart(
                task,
                bound,
                seed=drawn.seed,
                length=moments[-1],
                is_averaged=drawn.is_averaged,
            ),
            num_lanes=len(candidates),
            stacked=self.config.stacked,
        )
        found = life_losses(
            lanes, self._thetas(candidates), moments, batches=self.config.batches
        )
        self.inner_steps += moments[-1] * len(candidates)
        logs = found.cpu().clamp_min(_SMALLEST_LOSS).log()
        return logs.nan_to_num(nan=_DIVERGED, posinf=_DIVERGED).mean(0)

    def _thetas(self, candidates: Sequence[Any]) -> dict[str, Tensor]:
        """Return the searched weights of every candidate, `[lane, *shape]`."""
        found = []
        for candidate in candidates:
            self._put(torch.as_tensor(candidate))
            found.append([self.weights[item.name].clone() for item in self.searched])
        names = [item.name for item in self.searched]
        parts = map(torch.stack, zip(*found, strict=True))
        return {n: p.detach() for n, p in zip(names, parts, strict=True)}

    @torch.no_grad()
    def _put(self, values: Tensor) -> None:
        """Write a candidate into the rule."""
        start = 0
        for item in self.searched:
            own = item.of(self.weights)
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
            "searched": [str(item) for item in self.searched],
            **provenance(),
        }


def life_losses(
    lanes: Lanes,
    theta: Mapping[str, Tensor],
    moments: tuple[int, ...],
    *,
    batches: int,
) -> Tensor:
    """Return the loss of every lane at some moments of a life, `[moment, lane]`.

    The batches are of the validation split where the task has one, and the same ones
    for every lane. Batch norm uses their statistics, not the running ones.

    Args:
        lanes: networks at their start; those with averages are measured there.
        theta: the weights in which lanes differ, `[lane, *shape]`.
        moments: numbers of inner steps, ascending.
        batches: on how many a loss is measured.

    Returns:
        Losses; infinite from where a lane diverged.
    """
    found = []
    for moment in moments:
        while lanes.position < moment and not lanes.is_known_over:
            lanes.step(dict(theta))
        drawn = lanes.task.unseen_batches(lanes.seed + moment, batches)
        losses = lanes.losses_on(drawn, at_average=bool(lanes.averages))
        found.append(losses.masked_fill(lanes.is_lost, math.inf))
    return torch.stack(found)


def _searched(weights: Mapping[str, Tensor], patterns: Sequence[str]) -> list[Searched]:
    """Return what the patterns name, in the order of the rule's weights.

    Raises:
        ValueError: if a pattern names nothing.
    """
    found = []
    for pattern in patterns:
        stem, _, row = pattern.removesuffix("]").partition("[")
        names = [name for name in weights if fnmatch(name, stem)]
        if not names or (row and not row.isdigit()):
            raise ValueError(
                "SearchConfig searched must name weights of the rule; got "
                f"{pattern!r}. The weights are {', '.join(weights)}; `name[0]` is the "
                "first row of one."
            )
        found += [Searched(name, int(row) if row else None) for name in names]
    return found
