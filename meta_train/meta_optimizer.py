"""How theta begins and moves: initial rule, outer optimizer, schedule, average."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from l2o.rule.build import AnyRule, build_rule
from l2o.rule.checkpoint import load_rule
from l2o.schedules import cosine_factor

from .config import MetaTrainConfig


def choose_trained(rule: nn.Module, patterns: tuple[str, ...]) -> list[nn.Parameter]:
    """Return the weights of theta that a run trains; freeze the others.

    Args:
        rule: whose weights.
        patterns: of names, as a shell has them.

    Raises:
        ValueError: if a pattern fits no weight.
    """
    named = dict(rule.named_parameters())
    chosen = _chosen(named, patterns, setting="trained")
    for name, weight in named.items():
        weight.requires_grad_(name in chosen)
    return [named[name] for name in chosen]


def _chosen(
    named: Mapping[str, Tensor], patterns: tuple[str, ...], *, setting: str
) -> list[str]:
    """Return the names that patterns fit, in order.

    Raises:
        ValueError: if a pattern fits none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ValueError(
                f"MetaTrainConfig {setting} must name weights of the rule; got "
                f"{pattern!r}, which fits none of {sorted(named)}. Correct the pattern."
            )
    return [name for name in named if any(fnmatchcase(name, p) for p in patterns)]


def build_meta_optimizer(
    config: MetaTrainConfig, weights: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the outer optimizer of some of theta's weights."""
    settings = config.meta_optimizer
    build = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return build(
        weights,
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )


def learning_rate(config: MetaTrainConfig, outer_step: int) -> float:
    """Return the meta learning rate: linear warm-up, then a cosine.

    Args:
        config: the run; its `meta_optimizer` and `outer_steps` matter.
        outer_step: number of updates already made.
    """
    settings = config.meta_optimizer
    return settings.lr * cosine_factor(
        outer_step,
        config.outer_steps,
        warmup_steps=settings.warmup,
        lowest=settings.final_lr_share,
    )


class ThetaAverage:
    """An exponential moving average of theta.

    Args:
        rule: what is averaged; its present weights are the first average.
        decay: weight of the past at each step.
    """

    def __init__(self, rule: nn.Module, decay: float) -> None:
        self.rule = rule
        self.decay = decay
        self.theta: dict[str, Tensor] = copy.deepcopy(rule.state_dict())

    def update(self) -> None:
        """Move the average towards the present theta."""
        for name, weight in self.rule.state_dict().items():
            self.theta[name].lerp_(weight, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Temporarily load the average in place of the rule's weights."""
        own = copy.deepcopy(self.rule.state_dict())
        self.rule.load_state_dict(self.theta)
        try:
            yield
        finally:
            self.rule.load_state_dict(own)


def initial_rule(config: MetaTrainConfig) -> AnyRule:
    """Return the rule that a run starts from: the files of `init`, or a new one.

    Raises:
        ValueError: if the first file holds another rule than the configured one, if
            another one has no weight of it, or if a pattern of `zeroed` fits none.
    """
    names = (config.init,) if isinstance(config.init, str) else config.init or ()
    rule = _first_rule(config, names)
    weights = dict(rule.named_parameters())
    for name in names[1:]:
        known = load_rule(name).state_dict()
        rule.load_state_dict(_same_shape(known, weights, name), strict=False)
    with torch.no_grad():
        for name in _chosen(weights, config.zeroed, setting="zeroed"):
            weights[name].zero_()
    return rule


def _first_rule(config: MetaTrainConfig, names: Sequence[str]) -> AnyRule:
    """Return the rule of the first file, or a new one where there is none."""
    wanted = config.rule_config
    if not names:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            return build_rule(wanted)
    rule = load_rule(names[0])
    if rule.config != wanted:
        raise ValueError(
            "MetaTrainConfig init must name a file of the configured rule; got "
            f"init={names[0]!r}, which holds {rule.config}, for rule="
            f"{wanted}. Set rule to what the file holds, or name another file."
        )
    return rule


def _same_shape(
    known: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Return those weights of another file that a rule has in the same shape."""
    found = {
        key: item
        for key, item in known.items()
        if key in weights and weights[key].shape == item.shape
    }
    if not found:
        raise ValueError(
            "MetaTrainConfig init must name files with weights of the configured rule; "
            f"got {name!r}, which has none of {sorted(weights)}. Leave it out."
        )
    return found
