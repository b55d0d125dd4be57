"""From the network's outputs per entry to an update."""

import math
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from l2o.config import HasKind, Positive, frozen_config
from l2o.graph import NeuralGraph
from l2o.graph.linear_maps import fan_ins
from l2o.nets.fast_ops import add, multiplied

from .directions import Directions, DirectionSet


def fan_in_units(graph: NeuralGraph, full_fan_in: float) -> dict[str, float]:
    """Return how initial weights of linear maps are scaled; 1 for all else.

    Args:
        graph: the neural graph of the parameters.
        full_fan_in: most inputs of a map whose unit is 1.
    """
    units = dict.fromkeys(graph.shapes, 1.0)
    for name, count in fan_ins(graph).items():
        units[name] = min(1.0, math.sqrt(full_fan_in / count))
    return units


@runtime_checkable
class Head(Protocol):
    """Turns the network's outputs for some entries into their updates."""

    num_outputs: int
    """Outputs per entry that the head takes."""
    uses_directions: bool
    """Whether the head reads directions."""
    starts_at_zero: bool
    """Whether an untrained network is to return zeros, so that the rule is its base."""

    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return what updates are multiples of, for every parameter of a graph."""
        ...

    def __call__(
        self, outputs: Tensor, directions: Directions | None, unit: Tensor | float
    ) -> Tensor:
        """Return what is added to some entries at `lr = 1`.

        Args:
            outputs: `[*entries, num_outputs]`; without autograd they may be
                overwritten.
            directions: of the same entries; None unless `uses_directions`.
            unit: of their tensors, to broadcast.

        Returns:
            `[*entries]`, in units of the parameter.
        """
        ...


@runtime_checkable
class HeadConfig(HasKind, Protocol):
    """A configuration that builds a head."""

    @property
    def step_size(self) -> float:
        """Typical size of an update at `lr = 1`."""
        ...

    def build(self, directions: DirectionSet) -> Head:
        """Return the head over these directions."""
        ...


@frozen_config
class PaperHeadConfig:
    """The paper's update: `0.01 * s * exp(0.01 * m)`, sign learned."""

    kind: Literal["paper"] = "paper"
    step_size: Positive[float] = 0.01
    """Factor of the update and of the exponent."""

    def build(self, directions: DirectionSet) -> Head:
        """Return the head."""
        return PaperHead(self)


@frozen_config
class NominalHeadConfig:
    """A hand-designed update with others added, scaled by the network."""

    kind: Literal["nominal"] = "nominal"
    step_size: Positive[float] = 0.01
    """Learning rate of the optimizer that an untrained rule is, in the units below."""
    base: Literal["adam", "whitened"] = "adam"
    """What an untrained rule is: `adam`; or `whitened`, the whitened momentum for
    linear maps and Adam for the rest. A rule that imitates the latter need not take
    Adam's direction away again, which fails where gradients are steadier than any that
    it has learned from."""
    max_deviation: Positive[float] | None = None
    """Bound on what the other directions add to an entry of the base, as a share of
    that entry; below 1 no entry of an update ever opposes the base. None means no
    bound: then a rule may go uphill for gradients unlike any that it has learned
    from."""
    max_log_scale: Positive[float] = 6.0
    """Bound on the learned logarithm of a step's scale, approached smoothly."""
    scaled: Literal["adam", "all"] = "all"
    """What the learned scale multiplies: `adam`, the base alone, with the others added
    as they are; or `all`, their sum, so that a rule that lowers its rate keeps its
    direction."""
    unit: Literal["one", "fan_in"] = "fan_in"
    """What updates of a linear map are multiples of: `one` whatever its size; or with
    `fan_in` sqrt(full_fan_in / inputs), at most 1, which is how initial weights are
    scaled, so that one rule fits narrow and wide layers. Other parameters have 1."""
    full_fan_in: Positive[float] = 16.0
    """Most inputs of a map whose unit is 1, with `unit: fan_in`; of a convolution only
    those count that are new at each position."""

    def build(self, directions: DirectionSet) -> Head:
        """Return the head."""
        return NominalHead(self, directions)

    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return what updates are multiples of, for every parameter of a graph."""
        if self.unit == "one":
            return dict.fromkeys(graph.shapes, 1.0)
        return fan_in_units(graph, self.full_fan_in)


AnyHeadConfig: TypeAlias = PaperHeadConfig | NominalHeadConfig | HeadConfig
"""Heads that rule files name, and any other `HeadConfig`."""


class PaperHead:
    r"""The paper's head.

    .. math:: \lambda s \exp(\lambda m)

    with outputs (s, m) and the step size :math:`\lambda`. It reads no direction.

    Args:
        config: its step size.

    Reference:
        Kofinas et al., 2024, section 4.3.
    """

    num_outputs = 2
    uses_directions = False
    starts_at_zero = False

    def __init__(self, config: PaperHeadConfig) -> None:
        self.config = config

    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return 1 for every parameter."""
        return dict.fromkeys(graph.shapes, 1.0)

    def __call__(
        self, outputs: Tensor, directions: Directions | None, unit: Tensor | float = 1.0
    ) -> Tensor:
        """Return the update of some entries; see `Head`."""
        sign, magnitude = outputs.unbind(-1)
        size = self.config.step_size
        return size * sign * torch.exp(size * magnitude)


class NominalHead:
    r"""A mixture of directions around a base.

    .. math::
        adam: \quad -\eta \nu (u_{base} \exp(a) + \sum_k c_k u_k)

        all: \quad -\eta \nu \exp(a) (u_{base} + \sum_k c_k u_k)

    by `scaled`, with outputs (a, c_1, c_2, ...), directions :math:`u_k`, the step size
    :math:`\eta` and the unit :math:`\nu`. With outputs at zero it is its base. The sum
    over :math:`k` stays within `max_deviation` times the magnitude of the base's term.
    Every term is a direction times a factor, so that without gradients the update is
    zero, and no learned offset can push weights along forever.

    Args:
        config: its step size, base and bounds.
        directions: what it mixes.

    Raises:
        ValueError: if the base is not among the directions.

    Reference:
        Harrison et al., 2022, "A closer look at learned optimization",
        https://arxiv.org/abs/2209.11208 (nominal terms). The sum of directions is ours.
    """

    uses_directions = True
    starts_at_zero = True

    def __init__(self, config: NominalHeadConfig, directions: DirectionSet) -> None:
        self.config = config
        self.num_outputs = 1 + len(directions)
        self.base = directions.row(config.base)

    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return what updates are multiples of, as the configuration says."""
        return self.config.units(graph)

    def __call__(
        self, outputs: Tensor, directions: Directions | None, unit: Tensor | float = 1.0
    ) -> Tensor:
        """Return the update of some entries; see `Head`."""
        assert directions is not None
        config = self.config
        bound = config.max_log_scale
        factor = torch.exp(bound * torch.tanh(outputs[..., 0] / bound))
        mixed = multiplied(outputs[..., 1:].movedim(-1, 0), directions.steps).sum(0)
        base = directions.steps[self.base]
        is_all = config.scaled == "all"
        base = base if is_all else base * factor
        if config.max_deviation is not None:
            limit = config.max_deviation * base.abs()
            mixed = torch.clamp(mixed, -limit, limit)
        total = add(mixed, base)
        total = multiplied(total, factor) if is_all else total
        return multiplied(total, -config.step_size * unit)
