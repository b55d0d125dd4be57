"""Hand-designed directions: what a head mixes and a network reads."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from l2o.config import HasKind, Positive, frozen_config
from l2o.graph import NeuralGraph
from l2o.nets.fast_ops import joined

from .newton_schulz import GROUP_ROWS
from .state import ADAM_DECAY, ADAM_EPS, TINY, Averages, State, Tensors
from .whitening import whiten_momenta

Part: TypeAlias = Tensor | tuple[Callable[..., Tensor], Tensor, *tuple[Any, ...]]
"""Rows of a direction, or an elementwise function that takes `out` and its arguments,
the first of them of the rows' shape."""


class Values(NamedTuple):
    """Values of some entries, of any tensors."""

    main: Tensor
    """`[2 + momentum, *entries]`: weight, gradient, momenta."""
    second: Tensor
    """`[*entries]`: second moment."""
    ages: Tensor
    """What `Averages.ages` returns of their steps, to broadcast: `[momentum + 1,
    *entries]`."""


class Directions(NamedTuple):
    """Ways downhill for some entries, none of which depends on the loss's scale."""

    steps: Tensor
    """`[row, *entries]`, in the order of `DirectionSet.rows`."""
    root: Tensor
    """`[*entries]`: root of the second moment, in units of the gradient."""


@runtime_checkable
class Direction(Protocol):
    """One direction, of one row or several."""

    rows: tuple[str, ...]
    """A name for each row."""
    has_unit_size: bool
    """Whether the root mean square over a tensor is 1 wherever it is not 0."""

    def prepare(self, graph: NeuralGraph, grads: Tensors, state: State) -> Tensors:
        """Return what can only be computed from whole parameters.

        Args:
            graph: the neural graph of the parameters.
            grads: name to gradient, for every parameter of the graph.
            state: name to averages, these gradients included.

        Returns:
            Name to `[*shape]`, for those parameters that the direction prepares.
        """
        ...

    def part(self, values: Values, root: Tensor, prepared: Tensor | None) -> Part:
        """Return the rows for some entries, `[row, *entries]`.

        Args:
            values: of the entries.
            root: `[*entries]`, root of the second moment.
            prepared: `[*entries]` of what `prepare` returned; None for parameters that
                it left out.
        """
        ...


@runtime_checkable
class DirectionConfig(HasKind, Protocol):
    """A configuration that builds a direction."""

    def build(self, averages: Averages) -> Direction:
        """Return the direction over these averages."""
        ...


@frozen_config
class GradientConfig:
    """The gradient over the root of the second moment, as in RMSprop."""

    kind: Literal["gradient"] = "gradient"

    def build(self, averages: Averages) -> Direction:
        """Return the direction."""
        return _Gradient()


class _Gradient:
    rows: tuple[str, ...] = ("gradient",)
    has_unit_size = False

    def prepare(self, graph: NeuralGraph, grads: Tensors, state: State) -> Tensors:
        return {}

    def part(self, values: Values, root: Tensor, prepared: Tensor | None) -> Part:
        return torch.div, values.main[1:2], root


@frozen_config
class MomentaConfig:
    """Every momentum over the root of the second moment; Adam's is the row `adam`."""

    kind: Literal["momenta"] = "momenta"

    def build(self, averages: Averages) -> Direction:
        """Return the direction."""
        return _Momenta(averages)


class _Momenta:
    has_unit_size = False

    def __init__(self, averages: Averages) -> None:
        self.rows = tuple(
            "adam" if decay == ADAM_DECAY else f"momentum {decay}"
            for decay in averages.momentum_decays
        )

    def prepare(self, graph: NeuralGraph, grads: Tensors, state: State) -> Tensors:
        return {}

    def part(self, values: Values, root: Tensor, prepared: Tensor | None) -> Part:
        return torch.div, values.main[2:], values.ages[:-1] * root


@frozen_config
class WhitenedConfig:
    """The whitened momentum of a linear map; Adam's direction for all else.

    Reference:
        Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/.
    """

    kind: Literal["whitened"] = "whitened"
    group_rows: Positive[int] = GROUP_ROWS
    """Most rows of a linear map, or columns if these are fewer, whose momentum is
    whitened together. Larger maps are whitened by groups of rows, up to the last
    step, which bounds the cost per entry of a wide layer."""

    def build(self, averages: Averages) -> Direction:
        """Return the direction."""
        return _Whitened(averages, self.group_rows)


class _Whitened:
    rows: tuple[str, ...] = ("whitened",)
    has_unit_size = True

    def __init__(self, averages: Averages, group_rows: int) -> None:
        self.averages = averages
        self.momentum = averages.adam_momentum
        self.group_rows = group_rows

    def prepare(self, graph: NeuralGraph, grads: Tensors, state: State) -> Tensors:
        return whiten_momenta(graph, grads, state, self.averages, self.group_rows)

    def part(self, values: Values, root: Tensor, prepared: Tensor | None) -> Part:
        if prepared is not None:
            return prepared[None]
        own = slice(self.momentum, self.momentum + 1)
        return torch.div, values.main[2:][own], values.ages[:-1][own] * root


AnyDirectionConfig: TypeAlias = (
    GradientConfig | MomentaConfig | WhitenedConfig | DirectionConfig
)
"""Directions that rule files name, and any other `DirectionConfig`."""

DIRECTIONS: tuple[AnyDirectionConfig, ...] = (
    GradientConfig(),
    MomentaConfig(),
    WhitenedConfig(),
)
"""The directions of a rule that names none."""


class DirectionSet:
    """The directions of a rule, in order.

    Args:
        configs: the directions.
        averages: what they are made from.

    Raises:
        ValueError: if two rows have the same name.
    """

    def __init__(
        self,
        configs: Sequence[AnyDirectionConfig] = DIRECTIONS,
        averages: Averages | None = None,
    ) -> None:
        self.configs = tuple(configs)
        self.averages = Averages() if averages is None else averages
        self.directions = [config.build(self.averages) for config in configs]
        self.rows = tuple(row for item in self.directions for row in item.rows)
        if len(set(self.rows)) < len(self.rows):
            raise ValueError(
                f"DirectionSet needs rows of different names; got {self.rows}. List "
                "each direction once."
            )
        self.measured_rows = [
            number
            for number, is_unit in enumerate(
                item.has_unit_size for item in self.directions for _ in item.rows
            )
            if not is_unit
        ]
        """Rows whose size in a tensor is informative."""

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, name: str) -> int:
        """Return the index of a row.

        Raises:
            ValueError: if there is no such row.
        """
        if name not in self.rows:
            raise ValueError(
                f"DirectionSet needs the row {name!r}; got only {self.rows}. Add the "
                "direction to RuleConfig.directions."
            )
        return self.rows.index(name)

    def only(self, kind: str) -> "DirectionSet":
        """Return the set of those directions whose configuration has a `kind`."""
        configs = [config for config in self.configs if config.kind == kind]
        return DirectionSet(configs, self.averages)

    def prepare(
        self, graph: NeuralGraph, grads: Tensors, state: State
    ) -> list[Tensors]:
        """Return what each direction prepares from whole parameters."""
        return [item.prepare(graph, grads, state) for item in self.directions]

    def __call__(self, values: Values, prepared: Sequence[Tensor | None]) -> Directions:
        """Return the directions of some entries, this step's gradients included.

        Args:
            values: after these gradients.
            prepared: for each direction, what it prepared for these entries,
                `[*entries]`, or None.
        """
        root = (values.second / values.ages[-1] + TINY).sqrt() + ADAM_EPS
        pairs = zip(self.directions, prepared, strict=True)
        steps = joined(*(item.part(values, root, own) for item, own in pairs))
        return Directions(steps, root)
