"""One search for a few weights of a rule as one frozen record, read from YAML."""

from dataclasses import field
from pathlib import Path

from l2o.config import NotNegative, Positive, check_share, frozen_config
from l2o.rule.neuron_config import NeuronRuleConfig
from optimizees.task_loader import DataChoice

from .task_config import AnyTaskConfig, TaskConfig
from .yaml_file import config_from, read_yaml


@frozen_config
class SearchConfig:
    """CMA-ES over the few weights of a rule that need no network."""

    name: str
    """Name of the search and of its folder."""
    rule: NeuronRuleConfig = field(default_factory=lambda: NeuronRuleConfig(net=None))
    """The rule whose weights are searched."""
    start: dict[str, list[float]] = field(default_factory=dict)
    """First values of weights by name, as flat lists; the others start untrained."""
    init: str | None = None
    """A rule file to start from; `start` changes it."""
    searched: tuple[str, ...] = ("base_rates.*",)
    """Which weights are searched: patterns of names as a shell has them."""
    sigma: Positive[float] = 0.25
    """First standard deviation, in the units of the weights."""
    population: Positive[int] = 12
    """Candidates per generation."""
    generations: Positive[int] = 20
    """Number of generations."""
    problems: Positive[int] = 4
    """Problems drawn per generation, without replacement where there are enough; all
    candidates train on the same ones, from the same weights, on the same batches."""
    steps: tuple[int, ...] = (100, 400, 1000)
    """Moments of a life at which the loss is measured, in inner steps."""
    average_share: float = 0.5
    """Share of the problems whose loss is that at the averaged weights, which the rule
    is told."""
    horizon_share: float = 0.25
    """Share of the problems whose length the rule knows; only its end counts there. The
    rest is measured at the latest weights, at any moment."""
    stacked: bool = True
    """Whether the candidates of a problem train as one `vmap`; else they take turns."""
    batches: Positive[int] = 8
    """Batches on which a loss is measured, at most: of the validation split, or, where
    the task has none, of the training data from another seed."""
    most: Positive[float] = 0.5
    """A candidate's logarithm of the loss on one problem counts at most this much
    better or worse than the median's, so that no problem outweighs the others."""
    seed: NotNegative[int] = 0
    """Decides candidates, problems, weights and batches."""
    tasks: tuple[AnyTaskConfig, ...] = (TaskConfig(),)
    """The kinds of problem."""
    data: DataChoice = "auto"
    """Which copy of FashionMNIST."""

    def __post_init__(self) -> None:
        for name in ("average_share", "horizon_share"):
            value = getattr(self, name)
            if value:
                check_share("SearchConfig", **{name: value})
        if self.average_share + self.horizon_share > 1:
            raise ValueError(
                "SearchConfig average_share and horizon_share must add up to at most "
                f"1; got {self.average_share} and {self.horizon_share}. Lower one."
            )
        if not self.steps or list(self.steps) != sorted(set(self.steps)):
            raise ValueError(
                "SearchConfig steps must be moments in ascending order; got "
                f"steps={self.steps}. Write for example [100, 1000]."
            )


def load_search(path: Path) -> SearchConfig:
    """Read a search from YAML.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming each key that is unknown or has a bad value.
    """
    values = read_yaml(path, owner="load_search", shipped="meta_train/configs/search")
    return config_from(SearchConfig, values, origin=str(path), what="a search")
