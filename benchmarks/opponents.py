"""Hand-designed optimizers, with the schedules that their users give them.

To add an opponent, write its builder in `opponent_builders` and add an entry to
`OPPONENTS`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import nn
from torch.optim import Optimizer

from . import opponent_builders as builders
from .opponent_builders import Decay, Schedule, scheduled

Grid: TypeAlias = tuple[float, ...]
"""Learning rates in rising order."""

_LIKE_ADAM: Grid = (1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 4e-2)
_WIDE: Grid = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_LIKE_MUON: Grid = (2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
_LIKE_SGD: Grid = (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
_LIKE_PRODIGY: Grid = (0.1, 0.3, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """A hand-designed optimizer, all but its learning rate."""

    title: str
    """Name in tables and pictures."""
    build: Callable[..., Optimizer]
    """Builds it as `build(model, lr, schedule, **settings)`, at a constant rate."""
    settings: Mapping[str, float | str] = field(default_factory=dict)
    """Further arguments of `build`, as its users set them; `decay` and `warmup` among
    them are the schedule's."""
    decay: Decay = "none"
    """How its rate falls where the settings do not say."""
    lrs: Grid = _LIKE_ADAM
    """Learning rates that it is tuned over by default."""
    untuned_lr: float = 1e-3
    """Learning rate that its authors, or else its users, begin with."""
    package: str | None = None
    """Package that provides it, if not PyTorch; rows record its version."""

    @property
    def knows_horizon(self) -> bool:
        """Whether its schedule ends with the run; if not, it can stop anywhere."""
        return self.settings.get("decay", self.decay) != "none"


def build_opponent(name: str, lr: float, model: nn.Module, steps: int) -> Optimizer:
    """Build the optimizer of one network, its schedule included.

    Args:
        name: a key of `OPPONENTS`.
        lr: learning rate.
        model: the network.
        steps: length of the run, which schedules end with.

    Raises:
        ValueError: if the name is unknown, or unless 0 < lr < infinity.
        ModuleNotFoundError: if the opponent needs a package that is not installed.
    """
    opponent = find_opponent(name)
    if not 0 < lr < math.inf:
        raise ValueError(
            f"build_opponent needs a finite learning rate above zero; got lr={lr} for "
            f"{name}. Try {opponent.lrs[len(opponent.lrs) // 2]:g}."
        )
    values: dict[str, Any] = {"decay": opponent.decay, **opponent.settings}
    of_schedule = {key: values.pop(key) for key in ("decay", "warmup") if key in values}
    schedule = Schedule(steps=steps, **of_schedule)
    return scheduled(opponent.build(model, lr, schedule, **values), schedule)


def find_opponent(name: str) -> Opponent:
    """Return an opponent by its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in OPPONENTS:
        raise ValueError(
            f"find_opponent needs one of {', '.join(OPPONENTS)}; got {name!r}. Check "
            "the spelling, or add it to benchmarks/opponents.py."
        )
    return OPPONENTS[name]


def _pair(name: str, opponent: Opponent) -> Iterator[tuple[str, Opponent]]:
    """Yield an opponent at a constant rate, and with a linear decay to zero."""
    for decay, ending, words in (("none", "", ""), ("linear", "-linear", ", linear")):
        yield (
            name + ending,
            replace(
                opponent,
                title=opponent.title + words,
                settings={**opponent.settings, "decay": decay},
            ),
        )


_BOTH: dict[str, Opponent] = {
    "adamw": Opponent(
        title="AdamW",
        build=builders.adamw,
        settings={"weight_decay": 0.01},
        lrs=_WIDE,
    ),
    "sgd": Opponent(
        title="SGD + Nesterov",
        build=builders.sgd,
        settings={"momentum": 0.9, "weight_decay": 5e-4},
        lrs=_LIKE_SGD,
        untuned_lr=0.1,
    ),
    "original-muon": Opponent(
        title="Muon, original scale",
        build=builders.original_muon,
        settings={"momentum": 0.95, "adamw_lr": 3e-4},
        lrs=_LIKE_MUON,
        untuned_lr=0.02,
    ),
    "soap": Opponent(
        title="SOAP",
        build=builders.soap,
        package="pytorch-optimizer",
        settings={"weight_decay": 0.01, "every": 10},
        lrs=_WIDE,
        untuned_lr=3e-3,
    ),
    "normuon": Opponent(
        title="NorMuon",
        build=builders.normuon,
        package="pytorch-optimizer",
        settings={"momentum": 0.95, "beta2": 0.95, "adamw_lr": 3e-4},
        lrs=_LIKE_MUON,
        untuned_lr=0.02,
    ),
    "ademamix": Opponent(
        title="AdEMAMix",
        build=builders.ademamix,
        package="pytorch-optimizer",
        settings={"weight_decay": 0.01, "alpha": 8.0},
        lrs=_WIDE,
    ),
    "prodigy": Opponent(
        title="Prodigy",
        build=builders.prodigy,
        package="prodigyopt",
        lrs=_LIKE_PRODIGY,
        untuned_lr=1.0,
    ),
}
"""Those that run at a constant rate and with a linear decay."""

OPPONENTS: dict[str, Opponent] = {
    "adam": Opponent(title="Adam", build=builders.adam),
    "adamw-cosine": Opponent(
        title="AdamW, cosine",
        build=builders.adamw,
        settings={"weight_decay": 0.01, "warmup": 0.05},
        decay="cosine",
    ),
    "muon": Opponent(
        title="Muon + AdamW, linear decay",
        build=builders.muon,
        settings={"weight_decay": 0.01, "momentum": 0.95},
        decay="linear",
    ),
    "muon-constant": Opponent(
        title="Muon + AdamW",
        build=builders.muon,
        settings={"weight_decay": 0.01, "momentum": 0.95, "decay": "none"},
    ),
    "schedule-free": Opponent(
        title="schedule-free AdamW",
        build=builders.schedule_free,
        package="schedulefree",
        settings={"weight_decay": 0.0, "warmup": 0.05},
        lrs=(3e-3, 6e-3, 1e-2, 2e-2, 4e-2, 8e-2),
        untuned_lr=2.5e-3,
    ),
    "sgd-cosine": Opponent(
        title="SGD + Nesterov, cosine",
        build=builders.sgd,
        settings={"momentum": 0.9, "weight_decay": 5e-4, "warmup": 0.05},
        decay="cosine",
        lrs=(1e-2, 3e-2, 1e-1, 2e-1, 4e-1, 8e-1),
        untuned_lr=0.1,
    ),
    **{
        name: opponent
        for beginning, both in _BOTH.items()
        for name, opponent in _pair(beginning, both)
    },
}
"""Every opponent by its name. Warm-up is linear, over a share of the steps; a cosine or
a linear decay then falls to zero at the last step. Weight decay is decoupled and per
unit of learning rate, but for SGD, where it is an L2 penalty. Schedule-free AdamW is
evaluated at its averaged weights. PyTorch has AdamW, SGD and Muon; schedulefree,
prodigyopt and pytorch_optimizer have the others."""
