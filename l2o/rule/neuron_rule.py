"""The neuron-level rule: a graph network at about the price of Muon.

`NeuronRule.forward` takes four steps.

1. *Measure* (`row_column`): weights, gradients and averages are laid on stacks of
   matrices and reduced once, to mean squares of rows, columns and whole matrices.
2. *Ask the network* (`l2o.nets.neuron_gnn`): it reads these as features, exchanges
   messages between neurons, and returns a scale for each row, column and matrix, and
   for each matrix shares of the momenta and powers of known scales.
3. *Find directions* (`neuron_directions`): momenta are mixed by the shares and whitened
   where the matrix is a linear map; everything else gets Adam's direction.
4. *Scale*: the update is the direction times the factors of its row and column, the
   rate of the tensor's role (`base_rates`) and its unit.
"""

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from l2o.config import config_values
from l2o.graph import NeuralGraph, derived
from l2o.nets.fast_ops import multiplied
from l2o.nets.neuron_gnn import NeuronFeatures, NeuronGNN, NeuronOutputs

from .base_rates import BaseRates
from .blocks import row_squares
from .head import fan_in_units
from .neuron_config import NeuronRuleConfig
from .neuron_directions import Directions, find_directions
from .row_column import LIMIT, Measured, measured
from .rule import AbstractRule
from .state import TINY, Averages, Reading, State, Tensors, constant
from .weight_exchange import NUM_CHANNELS, WeightExchange
from .wired import NUM_MATRIX_STATIC, NUM_STATIC, NUM_TIE_KINDS, Wired, wire


class NeuronRule(AbstractRule):
    r"""A learned optimizer with network outputs per tensor and neuron, not per entry.

    Choose it for training: it costs about as much as Muon, whatever it has learned. The
    update of entry (i, j) of a matrix is

    .. math::
        -\eta \nu \exp(s + r_i + c_j) D_{ij}

    with the step size :math:`\eta`, the unit :math:`\nu`, a learned scale for the
    matrix, for each row and for each column, and the direction :math:`D`: for a linear
    map the whitened momentum at a root mean square of 1, else Adam's. The network also
    chooses the momentum: more of the newest gradient, or more of a slower average; all
    shares are at least 0. An untrained rule is the whitened momentum with
    Nesterov's look ahead, and Adam for what is no linear map. No output makes an entry
    move against its direction, and without gradients every update dies out.

    Three more outputs of a matrix are powers from 0 to 1 of scales that others use as
    they are: of the rows of :math:`D` (1 is NorMuon without its memory), of the second
    moment's row and column means (1 is Adafactor's), and of the weights' norm over that
    of :math:`D` (1 is LAMB's and LARS's).

    Args:
        config: sizes, decays and bounds. None means the defaults.

    Example:
        >>> import l2o, torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = l2o.NeuralGraphOpt(layer.parameters(), rule=NeuronRule())

    Reference:
        Kofinas et al., 2024, "Graph Neural Networks for Learning Equivariant
        Representations of Neural Networks", https://arxiv.org/abs/2403.12143 (graph).
        Its network has a state per entry; here statistics of rows and columns take its
        place, and messages travel as products with the weights. Jordan et al., 2024,
        "Muon", https://kellerjordan.github.io/posts/muon/: the direction.
    """

    reads_horizon = True
    reads_aim = True

    def __init__(self, config: NeuronRuleConfig | None = None) -> None:
        super().__init__()
        self.config = NeuronRuleConfig() if config is None else config
        self.step_size = self.config.step_size
        self.averages = Averages(
            momentum_decays=self.config.momentum_decays,
            second_moment_decay=self.config.second_moment_decay,
        )
        num_momenta = len(self.config.momentum_decays)
        self.num_outputs = 4 + num_momenta
        num_scales = len(self.config.time_scales)
        self.base_rates = BaseRates(self.num_outputs - 1)
        self.net: NeuronGNN | None = None
        if self.config.net is not None:
            self.net = NeuronGNN(
                self.config.net,
                num_line_features=num_line_features(num_momenta),
                num_matrix_features=num_matrix_features(num_momenta, num_scales),
                num_static=NUM_STATIC,
                num_channels=NUM_CHANNELS,
                num_tie_kinds=NUM_TIE_KINDS,
                num_outputs=self.num_outputs,
            )

    @override
    def check(self, graph: NeuralGraph) -> None:
        """Accept every graph."""

    @override
    def prepare(self, graph: NeuralGraph) -> None:
        """Find the matrices of a graph."""
        wire(graph, self.base_rates.log_rates)

    @override
    def units(self, graph: NeuralGraph) -> dict[str, float]:
        """Return how initial weights of linear maps are scaled; 1 for all else."""
        if self.config.unit == "one":
            return super().units(graph)
        return fan_in_units(graph, self.config.full_fan_in)

    @override
    def settings(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return config_values(self.config)

    @override
    def forward(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        """Return what is added to each parameter at `lr = 1`, in its own dtype."""
        read = self._measured(Reading(graph, params, grads, state))
        outputs = self._outputs(read)
        powers = (outputs.matrices[:, 1:] + self.base_rates.powers).clamp(0, 1)
        directions = find_directions(self.config, read, powers)
        rates = self.base_rates(
            read.wired.roles,
            read.clock.steps,
            horizon=self.horizon,
            is_averaged=self.is_averaged,
        )
        factors = self._factors(graph, read, outputs, powers, directions, rates)
        factors = multiplied(factors, self._units(graph, read.wired))
        found = _scaled(read.wired, directions, factors)
        return {name: found[name].to(param.dtype) for name, param in params.items()}

    def base(
        self, graph: NeuralGraph, params: Tensors, grads: Tensors, state: State
    ) -> dict[str, Tensor]:
        """Return the directions of an untrained rule, without step size, unit or sign.

        Its arguments are those of `forward`.
        """
        read = self._measured(Reading(graph, params, grads, state))
        silent = self._silence(read.wired)
        powers = silent.matrices[:, 1:]
        directions = find_directions(self.config, read, powers)
        no_rates = torch.zeros_like(read.wired.heights)
        factors = self._factors(graph, read, silent, powers, directions, no_rates)
        return _scaled(read.wired, directions, factors)

    def _measured(self, reading: Reading) -> Measured:
        """Return what a step reads, measured."""
        wired = wire(reading.graph, self.base_rates.log_rates)
        return measured(wired, reading, self.averages)

    def _outputs(self, read: Measured) -> NeuronOutputs:
        """Return the outputs of the network; zeros where there is none."""
        if self.net is None:
            return self._silence(read.wired)
        scales = self.config.time_scales
        features = features_of(read, time_scales=scales, horizon=self.horizon)
        exchange = WeightExchange(read.values, read.wired)
        return self.net(read.wired.wiring, features, exchange)

    def _silence(self, wired: Wired) -> NeuronOutputs:
        """Return the outputs of an untrained network: zeros."""
        lines, matrices = wired.wiring.neuron, wired.heights
        return NeuronOutputs(
            matrices.new_zeros(len(lines)),
            matrices.new_zeros(len(matrices), self.num_outputs),
        )

    def num_weights(self) -> int:
        """Number of entries of theta."""
        return sum(weight.numel() for weight in self.parameters())

    def _factors(
        self,
        graph: NeuralGraph,
        read: Measured,
        outputs: NeuronOutputs,
        powers: Tensor,
        directions: Directions,
        rates: Tensor,
    ) -> Tensor:
        """Return the factor of every line, `[line]`.

        The direction times the factor of its row and that of its column is the update
        over step size and unit. A matrix's own scale, and what brings a whitened
        direction to its size, is part of its rows' factors.

        Args:
            graph: the neural graph.
            read: what the step reads.
            outputs: of the network.
            powers: those among them, from 0 to 1.
            directions: of each stack.
            rates: logarithms of the base's rates, `[matrix + 1]`.
        """
        wired, _, _, statistics = read
        config, num_rows = self.config, wired.num_rows
        squares = row_squares(directions.stacks).to(wired.static.dtype)
        matrix = wired.wiring.matrix[:num_rows]
        totals = squares.new_zeros(len(wired.owner)).index_add(0, matrix, squares)
        means = torch.cat([squares, totals]) * wired.per_row_or_matrix
        in_rows, raw = (means + TINY).log().tensor_split([num_rows])  # of squares
        if config.whitening_scale == "unit":
            change = torch.addcmul(
                directions.log_signal, directions.is_whitened, raw, value=-0.5
            )
        else:
            longer = 0.5 * torch.maximum(wired.heights, wired.widths).log()
            change = directions.log_signal + directions.is_whitened * longer
        weight = statistics.logs[0, statistics.num_lines :]
        row_power, factored_power, trust_power = powers[:, :3].unbind(1)
        # Steps that die out must not be scaled up again.
        lowest = max(-2 * LIMIT, math.log(config.signal_floor + TINY))
        trust = weight.clamp_min(-2 * LIMIT) - torch.add(
            change, raw, alpha=0.5
        ).clamp_min(lowest)
        lines, scale = self._bounded(graph, outputs)
        scale = torch.addcmul(scale + change + rates, trust_power, trust)
        factored_power = factored_power * wired.has_columns
        shared = torch.stack([scale, row_power, factored_power, raw])
        shared = shared.index_select(1, wired.wiring.matrix)
        scale, row_power, factored_power, raw = shared.unbind()
        relative = statistics.relative[1]  # of the second moment
        lines = torch.addcmul(lines, factored_power, relative, value=-1)
        rows = lines[:num_rows] + scale[:num_rows]
        relative = (in_rows - raw[:num_rows]).clamp_min(2 * lowest)
        rows = torch.addcmul(rows, row_power[:num_rows], relative, value=-0.5)
        return torch.cat([rows, lines[num_rows:]]).exp()

    def _bounded(
        self, graph: NeuralGraph, outputs: NeuronOutputs
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs for lines, and for the scales of matrices, bounded.

        Bounds are approached smoothly.
        """
        lines, scales = outputs.lines, outputs.matrices[:, 0]
        if self.net is None:  # they are zeros
            return lines, scales
        config = self.config
        limits = _limits(
            graph,
            config.max_log_line,
            config.max_log_scale,
            lines.device,
            lines.dtype,
        )
        found = torch.tanh(torch.cat([lines, scales]) / limits)
        lines, scales = multiplied(found, limits).split([len(lines), len(scales)])
        return lines, scales

    def _units(self, graph: NeuralGraph, wired: Wired) -> Tensor:
        """Return the step of each row, minus its size; 1 for columns: `[line]`."""
        units = tuple(self.units(graph).values())
        like = wired.static
        return _line_units(graph, self.step_size, units, like.device, like.dtype)


@derived
def _limits(
    graph: NeuralGraph,
    of_line: float,
    of_scale: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return the bound of each line's output, then of each matrix's scale."""
    wired = wire(graph, torch.empty((), dtype=dtype, device=device))
    lines = wired.heights.new_full(wired.wiring.neuron.shape, of_line)
    return torch.cat([lines, torch.full_like(wired.heights, of_scale)])


@derived
def _line_units(
    graph: NeuralGraph,
    step_size: float,
    units: tuple[float, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return minus the step size in each row's units, 1 for columns.

    Args:
        graph: the neural graph.
        step_size: of the rule.
        units: of the parameters, in the order of `graph.shapes`.
        device: of the result.
        dtype: of the result.
    """
    wired = wire(graph, torch.empty((), dtype=dtype, device=device))
    found = torch.tensor(units, dtype=dtype, device="cpu").to(device)
    found = -step_size * found.index_select(0, wired.owner)
    rows = found.index_select(0, wired.wiring.matrix[: wired.num_rows])
    return torch.cat([rows, rows.new_ones(len(wired.wiring.neuron) - wired.num_rows)])


def _scaled(wired: Wired, directions: Directions, factors: Tensor) -> dict[str, Tensor]:
    """Return each parameter's direction times the factors of its lines."""
    updates = []
    for number, (stack, direction) in enumerate(
        zip(wired.stacks.stacks, directions.stacks, strict=True)
    ):
        count, rows, columns = stack.shape
        by_row = factors[wired.row_slice(number)].view(count, rows, 1)
        update = direction
        if stack.is_owned:
            update = multiplied(update, by_row.to(direction.dtype))
        if stack.has_columns and stack.is_owned:
            by_column = factors[wired.column_slice(number)].view(count, 1, columns)
            update = multiplied(update, by_column.to(direction.dtype))
        updates.append(update)
    return wired.stacks.scatter(updates, directions.written)


def num_line_features(num_momenta: int) -> int:
    """Return the number of features per row or column."""
    return 4 + num_momenta


def num_matrix_features(num_momenta: int, num_time_scales: int) -> int:
    """Return the number of features per matrix."""
    return 3 + num_momenta + num_time_scales + 2 + NUM_MATRIX_STATIC


def features_of(
    read: Measured,
    *,
    time_scales: tuple[float, ...],
    horizon: int | None,
) -> NeuronFeatures:
    """Return what the network reads; no feature depends on the scale of the loss.

    A line has the logarithm of its root mean square compared with the matrix's, of
    weight and root second moment; of gradient and momenta compared with its own root
    second moment; and the cosine of gradient and momentum. A matrix has the same of the
    whole, the logarithm of its weights' root mean square, what it is and where it
    stands, a clock, and the share of the horizon that has passed, where it is known.

    Args:
        read: what the step reads.
        time_scales: time constants of the clock features, in steps.
        horizon: number of steps of the whole run; None if unknown.
    """
    wired, _, clock, (means, logs, relative, moving, num_lines) = read
    raw = means[1:3] + TINY
    cosine = means[-1:] * raw.rsqrt().prod(0, keepdim=True)
    both = torch.cat([moving, cosine]).clamp(-LIMIT, LIMIT)
    steps = clock.steps
    shares = constant([1 / scale for scale in time_scales], steps)[:, None]
    starts = constant([-1 - 1 / scale for scale in time_scales], steps)[:, None]
    ticks = torch.addcmul(starts, shares, steps).tanh()
    known = wired.zero.expand(2, len(steps))
    if horizon is not None:
        share = (steps / horizon).clamp(max=1)
        known = torch.stack([torch.ones_like(share), share])
    own = 0.5 * logs[:1, num_lines:].clamp(-2 * LIMIT, LIMIT)
    found = [own, both[:, num_lines:], ticks, known, wired.static.T]
    return NeuronFeatures(
        lines=torch.cat([relative, both[:, :num_lines], wired.wiring.sides.T]).T,
        matrices=torch.cat(found).T,
    )
